//! Names of table files: the table's number in sixteen hexadecimal digits and `.tbl`.

const SUFFIX: &str = ".tbl";

pub(crate) fn of(number: u64) -> String {
    format!("{number:016x}{SUFFIX}")
}

/// The table's number, where `name` is exactly the name of a table.
pub(crate) fn parse(name: &str) -> Option<u64> {
    let number = u64::from_str_radix(name.strip_suffix(SUFFIX)?, 16).ok()?;
    (of(number) == name).then_some(number)
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_read_back() {
        assert_eq!(super::parse(&super::of(0x1f)), Some(0x1f));
        assert_eq!(super::parse("1f.tbl"), None);
        assert_eq!(super::parse("root-a"), None);
    }
}
