//! The program `mif`: arguments in, the library's verbs, reports out.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    give_back_large_blocks();
    cli::run()
}

/// Has glibc's allocator map each large block by itself, so that it goes back when it is freed, and grows without being
/// copied. Else each one that is freed raises what counts as large, up to 32 MiB; lists of that length, of which a
/// volume with a million files has some, then leave all their former places behind in each thread's arena.
fn give_back_large_blocks() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it changes one number of the allocator, and no other thread runs yet.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 4 << 20);
    }
}
