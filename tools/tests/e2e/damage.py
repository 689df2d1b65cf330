"""Ways in which disks are lost: moved away, emptied, or with bytes flipped in their files."""

import os
import random
import shutil

BLOCK = 4096


def take_away(disk):
    """Moves the directory to where the server does not look."""
    disk.rename(disk.with_name(disk.name + ".away"))


def bring_back(disk):
    disk.with_name(disk.name + ".away").rename(disk)


def empty(disk):
    """Removes everything in the directory, as a fresh file system in its place would look."""
    for entry in disk.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def files_of(disk):
    return sorted(path for path in disk.rglob("*") if path.is_file() and path.stat().st_size > 0)


def written_blocks(path):
    """The offsets of the blocks that hold something: space files are preallocated, and their zeros mean nothing."""
    zeros = bytes(BLOCK)
    found = []
    with open(path, "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        at = 0
        while at < size:
            try:
                at = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError:
                break  # Nothing but a hole up to the end.
            end = os.lseek(file.fileno(), at, os.SEEK_HOLE)
            file.seek(at)
            while at < end:
                piece = file.read(min(end - at, 1 << 20))
                if not piece:
                    break
                found += [
                    at + start for start in range(0, len(piece), BLOCK) if piece[start : start + BLOCK] != zeros[: len(piece) - start]
                ]
                at += len(piece)
    return found


def flip(disk, seed, share=0.2, only=lambda path: True):
    """Flips one random bit in a share of the written blocks, at least three, of every file. Returns the number of flips."""
    flips = 0
    for path in files_of(disk):
        if not only(path):
            continue
        draw = random.Random(f"{seed}/{path.name}")
        blocks = written_blocks(path)
        chosen = draw.sample(blocks, min(len(blocks), max(3, int(len(blocks) * share))))
        with open(path, "r+b", buffering=0) as file:
            for block in chosen:
                file.seek(block)
                data = file.read(BLOCK)
                # Aim at bytes that mean something where there are some; trailing zeros may be padding.
                length = len(data.rstrip(b"\x00")) or len(data)
                at = draw.randrange(length)
                file.seek(block + at)
                file.write(bytes([data[at] ^ (1 << draw.randrange(8))]))
                flips += 1
            os.fsync(file.fileno())
    return flips
