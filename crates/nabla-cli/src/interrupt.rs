//! Ctrl-C: the program ends at once, outputs are as they were, and nothing lies beside them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};

use crate::errors::Failure;

/// How often the signals are looked at.
const PERIOD: Duration = Duration::from_millis(25);

/// Ends the program with code 130 on Ctrl-C, and with 143 when it is told to terminate.
pub fn watch() -> Result<(), Failure> {
    let received = Arc::new(AtomicUsize::new(0));
    for (signal, code) in [(SIGINT, 130), (SIGTERM, 143)] {
        signal_hook::flag::register_usize(signal, Arc::clone(&received), code)
            .map_err(|e| Failure::run(format!("Ctrl-C cannot be watched: {e}")))?;
    }
    thread::spawn(move || {
        loop {
            thread::sleep(PERIOD);
            let code = received.load(Ordering::SeqCst);
            if code != 0 {
                nabla::base::remove_unfinished_files();
                eprintln!("nabla: interrupted");
                std::process::exit(i32::try_from(code).unwrap_or(130));
            }
        }
    });
    Ok(())
}
