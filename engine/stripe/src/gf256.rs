//! Matrices over GF(2^8) with the polynomial x^8 + x^4 + x^3 + x^2 + 1 (0x11d), the field of ISA-L.
//!
//! Only small matrices are computed here; bytes of bodies go through the kernel.

const POLYNOMIAL: u16 = 0x11d;

/// `EXP[i]` = 2^i, twice over so that a sum of two logarithms needs no reduction.
const EXP: [u8; 510] = {
    let mut table = [0u8; 510];
    let mut value = 1u16;
    let mut i = 0;
    while i < 255 {
        table[i] = value as u8;
        table[i + 255] = value as u8;
        value <<= 1;
        if value & 0x100 != 0 {
            value ^= POLYNOMIAL;
        }
        i += 1;
    }
    table
};

/// `LOG[EXP[i]]` = i; `LOG[0]` is never used.
const LOG: [u8; 256] = {
    let mut table = [0u8; 256];
    let mut i = 0;
    while i < 255 {
        table[EXP[i] as usize] = i as u8;
        i += 1;
    }
    table
};

pub(crate) fn multiply(a: u8, b: u8) -> u8 {
    if a == 0 || b == 0 {
        return 0;
    }
    EXP[usize::from(LOG[usize::from(a)]) + usize::from(LOG[usize::from(b)])]
}

/// The multiplicative inverse of `a`, which must not be zero.
pub(crate) fn invert(a: u8) -> u8 {
    assert_ne!(a, 0);
    EXP[255 - usize::from(LOG[usize::from(a)])]
}

/// The inverse of the row-major `n` x `n` matrix (Gauss-Jordan), or `None` where it is singular.
pub(crate) fn invert_matrix(mut matrix: Vec<u8>, n: usize) -> Option<Vec<u8>> {
    assert_eq!(matrix.len(), n * n);
    let mut inverse = vec![0u8; n * n];
    for i in 0..n {
        inverse[i * n + i] = 1;
    }
    for column in 0..n {
        let pivot = (column..n).find(|&row| matrix[row * n + column] != 0)?;
        for j in 0..n {
            matrix.swap(pivot * n + j, column * n + j);
            inverse.swap(pivot * n + j, column * n + j);
        }
        let scale = invert(matrix[column * n + column]);
        for j in 0..n {
            matrix[column * n + j] = multiply(matrix[column * n + j], scale);
            inverse[column * n + j] = multiply(inverse[column * n + j], scale);
        }
        for row in (0..n).filter(|&row| row != column) {
            let factor = matrix[row * n + column];
            if factor == 0 {
                continue;
            }
            for j in 0..n {
                matrix[row * n + j] ^= multiply(factor, matrix[column * n + j]);
                inverse[row * n + j] ^= multiply(factor, inverse[column * n + j]);
            }
        }
    }
    Some(inverse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_nonzero_element_has_its_inverse() {
        for a in 1..=255u8 {
            assert_eq!(multiply(a, invert(a)), 1);
        }
    }

    #[test]
    fn a_singular_matrix_has_no_inverse() {
        assert_eq!(invert_matrix(vec![1, 2, 1, 2], 2), None);
        assert_eq!(invert_matrix(vec![0], 1), None);
    }

    #[test]
    fn a_matrix_that_needs_a_row_exchange_is_inverted() {
        assert_eq!(invert_matrix(vec![0, 1, 1, 0], 2), Some(vec![0, 1, 1, 0]));
    }
}
