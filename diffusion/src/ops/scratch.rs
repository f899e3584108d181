//! Buffers that kernels write before they read: kept from call to call by the thread that took them, so that they are neither mapped
//! nor cleared each time.

use std::cell::RefCell;
use std::ops::Deref;

/// Buffers that a thread keeps at most; more are never in use at once.
const KEPT: usize = 8;

thread_local! {
    static FREE: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// A buffer with whatever its last user left in it.
#[derive(Debug)]
pub(super) struct Scratch(Vec<f32>);

impl Default for Scratch {
    fn default() -> Self {
        Self::take()
    }
}

impl Scratch {
    /// An empty one, or the largest that this thread has free.
    pub(super) fn take() -> Self {
        let largest = FREE.try_with(|free| {
            let mut free = free.borrow_mut();
            let index = (0..free.len()).max_by_key(|index| free[*index].capacity())?;
            Some(free.swap_remove(index))
        });
        Self(largest.ok().flatten().unwrap_or_default())
    }

    /// `len` values of no meaning.
    pub(super) fn values(&mut self, len: usize) -> &mut [f32] {
        if self.0.len() < len {
            self.0.resize(len, 0.0);
        }
        &mut self.0[..len]
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A thread that ends has no list any more.
        let _ = FREE.try_with(|free| {
            let mut free = free.borrow_mut();
            if free.len() < KEPT {
                free.push(std::mem::take(&mut self.0));
            }
        });
    }
}

impl Deref for Scratch {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_taken_again_as_it_was_left() {
        std::thread::spawn(|| {
            let mut first = Scratch::take();
            first.values(100).fill(7.0);
            let where_it_lay = first.as_ptr();
            drop(first);
            let mut again = Scratch::take();
            assert_eq!(again.as_ptr(), where_it_lay);
            assert_eq!(again.values(50), [7.0; 50]);
            assert!(Scratch::take().is_empty(), "one buffer is never lent twice");
        })
        .join()
        .unwrap();
    }
}
