//! The program `federator`: see [`federator::cli`].

fn main() -> std::process::ExitCode {
    federator::cli::main()
}
