//! The room where ISA-L is called.
//!
//! What must hold:
//! - Tables are only ever written by `ec_init_tables` and read by `ec_encode_data` of the same process: on CPUs
//!   with GFNI their format differs, so they are opaque, private to [`Tables`], and never stored or shared with
//!   another function of the library.
//! - The C side is given raw pointers and one length: every slice is proved to have that length here, before the call.
#![expect(
    unsafe_code,
    reason = "ISA-L is a C library; its two coding functions are called here and nowhere else"
)]

// isal-sys builds and links the static library; its own bindings are not needed.
use isal_sys as _;
use std::ffi::{c_int, c_uchar};

unsafe extern "C" {
    fn ec_init_tables(k: c_int, rows: c_int, matrix: *mut c_uchar, tables: *mut c_uchar);
    fn ec_encode_data(
        len: c_int,
        k: c_int,
        rows: c_int,
        tables: *mut c_uchar,
        data: *mut *mut c_uchar,
        coding: *mut *mut c_uchar,
    );
}

/// Bytes of expanded table for each matrix coefficient.
const TABLE_BYTES_PER_COEFFICIENT: usize = 32;
/// Most sources and most outputs of one call.
const VECTORS_MAX: usize = 32;

/// A matrix of `rows` x `sources` coefficients, expanded for this CPU.
pub(crate) struct Tables {
    sources: usize,
    rows: usize,
    expanded: Box<[u8]>,
}

impl Tables {
    /// Expands `matrix` (row-major, `rows` x `sources`).
    pub(crate) fn new(sources: usize, rows: usize, matrix: &[u8]) -> Tables {
        assert!((1..=VECTORS_MAX).contains(&sources) && (1..=VECTORS_MAX).contains(&rows));
        assert_eq!(matrix.len(), sources * rows);
        let mut expanded = vec![0u8; TABLE_BYTES_PER_COEFFICIENT * sources * rows].into_boxed_slice();
        // SAFETY: `matrix` holds sources * rows readable bytes (asserted) and `expanded` 32 writable bytes for each
        // of them, which is what the function reads and writes. It only reads through the `matrix` pointer.
        unsafe {
            ec_init_tables(
                sources as c_int,
                rows as c_int,
                matrix.as_ptr().cast_mut(),
                expanded.as_mut_ptr(),
            );
        }
        Tables { sources, rows, expanded }
    }

    /// outputs = matrix x sources over GF(2^8). All slices must have one length.
    pub(crate) fn multiply(&self, sources: &[&[u8]], outputs: &mut [&mut [u8]]) {
        assert_eq!(sources.len(), self.sources);
        assert_eq!(outputs.len(), self.rows);
        let len = sources[0].len();
        assert!(sources.iter().all(|s| s.len() == len) && outputs.iter().all(|o| o.len() == len));
        if len == 0 {
            return;
        }
        let Ok(c_len) = c_int::try_from(len) else {
            panic!("a block of {len} bytes is far over every block limit")
        };
        let mut data = [std::ptr::null_mut::<c_uchar>(); VECTORS_MAX];
        for (pointer, source) in data.iter_mut().zip(sources) {
            *pointer = source.as_ptr().cast_mut();
        }
        let mut coding = [std::ptr::null_mut::<c_uchar>(); VECTORS_MAX];
        for (pointer, output) in coding.iter_mut().zip(outputs.iter_mut()) {
            *pointer = output.as_mut_ptr();
        }
        // SAFETY: `data` holds `sources` and `coding` `rows` valid pointers, each to `len` bytes (asserted above). The
        // function reads `data`, the tables and nothing else, and writes exactly `len` bytes of each output; outputs are
        // exclusive borrows, so they overlap neither each other nor a source. `expanded` was written by
        // `ec_init_tables` in this process for these dimensions; it is only read.
        unsafe {
            ec_encode_data(
                c_len,
                self.sources as c_int,
                self.rows as c_int,
                self.expanded.as_ptr().cast_mut(),
                data.as_mut_ptr(),
                coding.as_mut_ptr(),
            );
        }
    }
}
