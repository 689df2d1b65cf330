"""The files that every client carries to the server and back, and how trees are compared."""

from bodies import LARGE_SIZE, SMALL_SIZES, assert_same, body

NAMES = {
    0: "empty",
    1: "one byte.txt",
    SMALL_SIZES[2]: "inline/below.bin",
    SMALL_SIZES[3]: "inline/at.bin",
    SMALL_SIZES[4]: "inline/above.bin",
    SMALL_SIZES[5]: "deep/er/fünf MiB (5).bin",
    LARGE_SIZE: "large/100MiB.bin",
}


def plant(root):
    for size, name in NAMES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body(size, name))
    return root


def assert_trees_equal(actual, expected):
    def names(root):
        return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())

    assert names(actual) == names(expected)
    for name in names(expected):
        assert_same((actual / name).read_bytes(), (expected / name).read_bytes(), name)
