//! Ctrl-C: the program ends at once, leaves outputs as they were, and removes its temporary files.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};

use crate::errors::Failure;

/// How often the signals are polled.
const PERIOD: Duration = Duration::from_millis(25);

/// The exit code of Ctrl-C.
pub const INTERRUPTED: u8 = 130;

/// The exit code of the received signal, or 0.
static RECEIVED: LazyLock<Arc<AtomicUsize>> = LazyLock::new(Arc::default);

/// Ends the program with code 130 on Ctrl-C, and with 143 on SIGTERM.
pub fn watch() -> Result<(), Failure> {
    for (signal, code) in [(SIGINT, INTERRUPTED), (SIGTERM, 143)] {
        signal_hook::flag::register_usize(signal, Arc::clone(&RECEIVED), code.into())
            .map_err(|e| Failure::run_because("Ctrl-C cannot be watched", e))?;
    }
    thread::spawn(|| {
        loop {
            thread::sleep(PERIOD);
            if received().is_some() {
                end();
            }
        }
    });
    Ok(())
}

/// The exit code of the received signal.
pub fn received() -> Option<u8> {
    match u8::try_from(RECEIVED.load(Ordering::SeqCst)) {
        Ok(0) => None,
        Ok(code) => Some(code),
        Err(_) => Some(INTERRUPTED),
    }
}

/// Ends the program as a signal does. Both the watching thread and an interrupted job call this;
/// the first call ends the program.
pub fn end() -> ! {
    static ENDING: AtomicBool = AtomicBool::new(false);
    if ENDING.swap(true, Ordering::SeqCst) {
        loop {
            thread::park();
        }
    }
    nabla::base::remove_unfinished_files();
    eprintln!("nabla: interrupted");
    std::process::exit(received().unwrap_or(INTERRUPTED).into());
}
