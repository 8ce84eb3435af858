//! watch: prints the path of each event, for ever or a number of times.

use xenstore::Store;

use super::options::Options;
use super::text::lossy;
use super::{Outcome, print, say};

/// Watches the paths given; the first event of each comes at once.
pub(super) fn run(store: &Store, options: &Options) -> Outcome {
    for path in &options.operands {
        let path = lossy(path);
        match options.depth {
            None => store.watch(&path, &path),
            Some(depth) => store.watch_depth(&path, &path, depth),
        }
        .map_err(|_| say(format!("Unable to add watch on {path}\n")))?;
    }
    let mut left = options.count;
    while left != Some(0) {
        let event = store
            .next_event(None)
            .map_err(|error| say(error.to_string()))?;
        if let Some(event) = event {
            print(format!("{}\n", event.path).as_bytes())?;
            left = left.map(|left| left - 1);
        }
    }
    Ok(())
}
