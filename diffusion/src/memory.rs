//! Where the memory of tensors comes from.

use candle_core::Device;

/// Asks the C library's allocator to keep freed memory for the next tensor instead of giving it back to the system, up to
/// [`KEPT_BYTES`]. Every tensor is a fresh allocation, so without this each op waits for the system to map and clear pages:
/// rendering takes about a seventh longer. Call it once, first thing in `main`; it does nothing where the C library is not glibc.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    glibc::keep_freed_memory();
}

/// Asks it to have one heap for all threads, too, and for the largest tensors, before there are others: heaps of single threads are of
/// pieces of 64 MiB, each of which goes back to the system when it is empty, and what is mapped by itself goes back at once, whatever is
/// to be kept. For processes that compute: few of their allocations are so small that threads would wait for one another.
pub fn share_one_heap() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    glibc::share_one_heap();
}

/// Freed memory that is kept at the end of each of the allocator's heaps, all that can be asked for.
pub const KEPT_BYTES: i32 = i32::MAX;

/// Memory of a GPU: taken, by whomever, and all there is, bytes. What this process has freed counts as taken: it is kept for the
/// next tensor. None for the CPU.
#[must_use]
pub fn of_gpu(device: &Device) -> Option<(u64, u64)> {
    #[cfg(feature = "cuda")]
    if let Ok(device) = device.as_cuda_device() {
        let (free, all) = device.cuda_stream().context().mem_get_info().ok()?;
        return Some(((all - free) as u64, all as u64));
    }
    let _ = device;
    None
}

/// `len` zeros for values that stay. The system is asked for large pages, before any is touched: to clear and map 4 GB of weights
/// page by small page takes longer than to read them.
pub(crate) fn zeros<T: Copy + Default>(len: usize) -> Vec<T> {
    let values = vec![T::default(); len];
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    large_pages::ask(&values);
    values
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod large_pages {
    const LARGE_PAGE: usize = 2 << 20;

    #[allow(unsafe_code)]
    pub(super) fn ask<T>(values: &[T]) {
        let place = values.as_ptr_range();
        let (start, end) =
            (place.start.addr().next_multiple_of(LARGE_PAGE), place.end.addr() / LARGE_PAGE * LARGE_PAGE);
        if start < end {
            let first = place.start.wrapping_byte_add(start - place.start.addr());
            // SAFETY: whole pages within an allocation that is ours; the advice changes no value, and what it says may be ignored.
            unsafe { libc::madvise(first.cast_mut().cast(), end - start, libc::MADV_HUGEPAGE) };
        }
    }
}

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

    #[allow(unsafe_code)]
    pub(super) fn share_one_heap() {
        // SAFETY: as above.
        unsafe {
            libc::mallopt(libc::M_ARENA_MAX, 1);
            libc::mallopt(libc::M_MMAP_MAX, 0);
        }
    }
}
