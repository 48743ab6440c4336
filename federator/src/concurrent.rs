//! Several waits at once inside one task, and waits with a deadline that say what they waited for.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

/// A future that stays in this task.
pub type Local<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// Runs every future to its end; the results are in the order of the futures.
pub async fn all<T>(futures: Vec<Local<'_, T>>) -> Vec<T> {
    let mut running: Vec<(Local<'_, T>, Option<T>)> =
        futures.into_iter().map(|future| (future, None)).collect();
    poll_fn(|context| {
        let mut pending = false;
        for (future, result) in &mut running {
            if result.is_none() {
                match future.as_mut().poll(context) {
                    Poll::Ready(value) => *result = Some(value),
                    Poll::Pending => pending = true,
                }
            }
        }
        if pending { Poll::Pending } else { Poll::Ready(()) }
    })
    .await;
    running.into_iter().filter_map(|(_, result)| result).collect()
}

/// A deadline passed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} took longer than {} ms", limit.as_millis())]
pub struct Late {
    /// What was waited for.
    pub what: String,
    /// How long.
    pub limit: Duration,
}

/// Waits at most `limit`.
///
/// # Errors
/// The deadline passed.
pub async fn within<T>(
    limit: Duration,
    what: &str,
    future: impl Future<Output = T>,
) -> Result<T, Late> {
    tokio::time::timeout(limit, future).await.map_err(|_| Late { what: what.to_owned(), limit })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn all_keeps_the_order_and_runs_at_once() {
        let (sender, receiver) = tokio::sync::oneshot::channel::<u8>();
        // The first one can only end when the second one runs.
        let first: Local<'_, u8> = Box::pin(async move { receiver.await.unwrap() });
        let second: Local<'_, u8> = Box::pin(async move {
            sender.send(1).unwrap();
            2
        });
        assert_eq!(all(vec![first, second]).await, [1, 2]);
        assert_eq!(all(Vec::<Local<'_, u8>>::new()).await, [0u8; 0]);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_deadline_says_what_it_waited_for() {
        let limit = Duration::from_millis(1);
        let late = within(limit, "the moon", std::future::pending::<()>()).await.unwrap_err();
        assert_eq!(late.to_string(), "the moon took longer than 1 ms");
    }
}
