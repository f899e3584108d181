//! The allocator and tensors.

/// Asks the C library's allocator to keep freed memory for the next tensor instead of giving it back to the system, up to
/// [`KEPT_BYTES`]. Every tensor is a fresh allocation, so without this each op waits for the system to map and clear pages:
/// rendering takes about a seventh longer. Call it once, first thing in `main`; it does nothing where the C library is not glibc.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    glibc::keep_freed_memory();
}

/// Freed memory that is kept at the end of each of the allocator's heaps.
pub const KEPT_BYTES: i32 = 1 << 30;

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod glibc {
    /// Allocations from this size on are mapped one by one; the largest value that glibc accepts.
    const MAPPED_BYTES: i32 = 32 << 20;

    #[allow(unsafe_code)]
    pub(super) fn keep_freed_memory() {
        // SAFETY: mallopt takes two integers by value, keeps no pointer and may be called at any time and from any thread.
        // A parameter that it refuses is left as it was.
        unsafe {
            libc::mallopt(libc::M_TRIM_THRESHOLD, super::KEPT_BYTES);
            libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_BYTES);
        }
    }
}
