//! Waiting for a node of xenstore.

use std::time::{Duration, Instant};

use xenstore::{Ops, Store};

use crate::Result;

/// Waits until a node is as wanted (`None`: it is not there); tells whether it came to that in time.
pub(crate) fn wait_for(
    store: &Store,
    node: &str,
    timeout: Duration,
    is_wanted: impl Fn(Option<&str>) -> bool,
) -> Result<bool> {
    // mostly it is so already, and a watch costs two requests
    if is_wanted(store.read_string_opt(node)?.as_deref()) {
        return Ok(true);
    }
    let token = format!("wait:{node}");
    store.watch(node, &token)?;
    let result = watched(store, node, Instant::now() + timeout, is_wanted);
    store.unwatch(node, &token)?;
    result
}

fn watched(
    store: &Store,
    node: &str,
    deadline: Instant,
    is_wanted: impl Fn(Option<&str>) -> bool,
) -> Result<bool> {
    loop {
        if is_wanted(store.read_string_opt(node)?.as_deref()) {
            return Ok(true);
        }
        // looked at each time round: who writes the node may do so without an end
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        let _changed = store.next_event(Some(left))?;
    }
}
