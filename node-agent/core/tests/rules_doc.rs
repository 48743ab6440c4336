//! Goal: `docs/rules.md` says what the rules are. Method: it is made from the table of the rules
//! and compared; `REWRITE=1` writes it.

#![allow(clippy::expect_used, reason = "a test ends where a fact is missing")]

use std::path::Path;

#[test]
fn the_rules_page_is_up_to_date() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/rules.md");
    let document = node_agent_core::rule::document();
    if std::env::var_os("REWRITE").is_some() {
        std::fs::write(&path, &document).expect("docs/rules.md is writable");
    }
    let found = std::fs::read_to_string(&path).expect("docs/rules.md is there");
    assert!(found == document, "docs/rules.md is stale: run this test with REWRITE=1");
}
