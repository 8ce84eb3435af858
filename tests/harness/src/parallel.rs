//! Runs jobs a few at a time and hands over each result as it comes.

use std::sync::mpsc;
use std::sync::{Mutex, PoisonError};
use std::thread;

/// Runs `work` on every job, `width` at a time, and calls `report` on this thread with each result as it is there.
pub fn run<J: Send, R: Send>(
    jobs: Vec<J>,
    width: usize,
    work: impl Fn(J) -> R + Sync,
    mut report: impl FnMut(R),
) {
    let queue = Mutex::new(jobs.into_iter());
    let (send, receive) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..width.max(1) {
            let send = send.clone();
            let (queue, work) = (&queue, &work);
            scope.spawn(move || {
                loop {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some(job) = next else { break };
                    if send.send(work(job)).is_err() {
                        break;
                    }
                }
            });
        }
        drop(send);
        for result in receive {
            report(result);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_job_is_run_once() {
        let mut seen = Vec::new();
        run(
            (0..50).collect(),
            3,
            |job: u32| job * 2,
            |result| seen.push(result),
        );
        seen.sort_unstable();
        assert_eq!(seen, (0..50).map(|job| job * 2).collect::<Vec<_>>());
    }
}
