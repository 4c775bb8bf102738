//! The threads that compute.

/// Lets this thread compute with the others, instead of waking one for each operation on tensors: small networks spend a
/// third of their time on that. Call it once, before anything is computed; later calls change nothing.
///
/// A thread that then waits for others, which ask for operations, keeps a core from them: where threads of a program's own
/// train, leave it out.
///
/// ```no_run
/// nabla_kernels::threads::compute_here();
/// ```
pub fn compute_here() {
    // Alone, it would never come to what other threads ask for.
    let alone = std::env::var("RAYON_NUM_THREADS").is_ok_and(|threads| threads == "1");
    if !alone && std::thread::available_parallelism().is_ok_and(|cores| cores.get() > 1) {
        // It fails if the threads have been started: then they stay as they are.
        let _ = rayon::ThreadPoolBuilder::new()
            .use_current_thread()
            .build_global();
    }
}
