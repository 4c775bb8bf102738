//! What an interrupted program leaves. Alone in its process, which can write no file afterwards.

#![allow(clippy::unwrap_used)] // helpers of tests are not recognised as tests

use std::io::Write;
use std::sync::mpsc::channel;
use std::thread;

use nabla_base::{OutputError, remove_unfinished_files, write_atomically};

#[test]
fn an_interrupt_leaves_the_older_file_and_nothing_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.txt");
    std::fs::write(&path, "old").unwrap();
    let (written, wait) = channel();
    let (go_on, told) = channel::<()>();
    let writer = {
        let path = path.clone();
        thread::spawn(move || {
            write_atomically(&path, |out| {
                out.write_all(b"new").unwrap();
                written.send(()).unwrap();
                told.recv().unwrap();
                Ok::<(), OutputError>(())
            })
        })
    };
    wait.recv().unwrap();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 2);
    remove_unfinished_files();
    go_on.send(()).unwrap();
    thread::sleep(std::time::Duration::from_millis(50));
    assert!(
        !writer.is_finished(),
        "it must wait for the end of the program"
    );
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}
