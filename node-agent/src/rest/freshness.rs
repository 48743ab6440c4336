//! A view that is young enough: members compare the answers of `GET /patroni` during an election,
//! and the federator those of gRPC.

use crate::clock;
use crate::view::{Handle, View};
use std::sync::Arc;
use std::time::Duration;

/// How old a view may be before a new one is asked for.
const AGE_MAX: Duration = Duration::from_millis(100);
/// How long a new one is waited for. A loop that is busy for longer has published what it does.
const WAIT: Duration = Duration::from_millis(250);

/// The last view, or a newer one when that is old and the loop answers in time.
pub async fn view(handle: &Handle) -> Arc<View> {
    let last = handle.latest();
    if clock::boot().since(last.observed.now) <= AGE_MAX {
        return last;
    }
    handle.look();
    let seen = last.observed.now;
    handle.until(WAIT, |view| view.observed.now > seen).await.unwrap_or_else(|| handle.latest())
}
