"""Starts, watches and ends a bucketsd of its own, from the release binaries, on a free loopback port.

Data lies below the target folder, on the file system of the checkout, or where BUCKETS_E2E_DATA says (any file system that
takes O_DIRECT; tmpfs does from Linux 6.6 on).
"""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

REPOSITORY = pathlib.Path(__file__).resolve().parents[3]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR") or REPOSITORY / "target").absolute()
BINARIES = pathlib.Path(os.environ.get("BUCKETS_BINARIES") or TARGET / "release")
DATA = pathlib.Path(os.environ.get("BUCKETS_E2E_DATA") or TARGET / "e2e-data").absolute()

ACCESS_KEY = "rootaccesskey0001"
SECRET_KEY = "root+secret/key-0000000000000000000000001"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def scratch(name):
    """A new directory for data."""
    DATA.mkdir(parents=True, exist_ok=True)
    return pathlib.Path(tempfile.mkdtemp(prefix=name + "-", dir=DATA))


@contextlib.contextmanager
def on(cpus):
    """What this thread starts meanwhile runs on these CPUs."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus or before)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def run(command, *arguments, check=False, timeout=60, environment=None, **options):
    """Runs bucketsd or bucketsctl to its end."""
    done = subprocess.run(
        [BINARIES / command, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**clean_environment(), **(environment or {})},
        **options,
    )
    if check and done.returncode != 0:
        raise AssertionError(f"{command} {arguments} exited {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


def clean_environment():
    """The environment without what would lead a client or the server elsewhere."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("AWS_", "BUCKETS_", "RCLONE_")) and name.lower() not in ("http_proxy", "https_proxy")
    }


def wrong_clock(seconds_ahead):
    """The environment of a process whose wall clock is that far ahead; its other clocks go on as they are."""
    (library,) = pathlib.Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME": f"{seconds_ahead:+d}",
        "DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
    }


class Bucketsd:
    """One node on the disks of one directory."""

    def __init__(self, directory=None, k=2, m=2, disks=None, arguments=(), name="node"):
        self.directory = pathlib.Path(directory) if directory else scratch(name)
        self.host = "127.0.0.1"
        self.port = free_port()
        self.access_key = ACCESS_KEY
        self.secret_key = SECRET_KEY
        self.pattern = str(self.directory / f"disk{{1...{k + m}}}") if disks is None else disks
        self.disks = [self.directory / f"disk{n}" for n in range(1, k + m + 1)]
        self.m = m
        self.k = k
        self.arguments = list(arguments)
        self.process = None
        self.binaries = BINARIES
        # What its clock is wrong by, and what its clients' are.
        self.seconds_ahead = 0
        self.log_path = self.directory / "bucketsd.log"

    # Life

    def format(self):
        """Formats the disks; where that fails nothing is left, as nobody ends what was not entered."""
        for disk in self.disks:
            disk.mkdir(parents=True, exist_ok=True)
        try:
            run("bucketsctl", "format", "--disks", self.pattern, "--ec", f"{self.k}+{self.m}", check=True)
        except BaseException:
            self.end()
            raise
        return self

    def spawn(self, arguments=None, environment=None):
        """Starts the process and does not wait; `arguments` and `environment` take the place of the usual ones."""
        assert self.process is None
        if arguments is None:
            arguments = ["--cores", "2", "--disks", self.pattern, "--listen", f"{self.host}:{self.port}", *self.arguments]
        if environment is None:
            environment = {"BUCKETS_ROOT_ACCESS_KEY": self.access_key, "BUCKETS_ROOT_SECRET_KEY": self.secret_key}
        if self.seconds_ahead:
            environment = {**environment, **wrong_clock(self.seconds_ahead)}
        with open(self.log_path, "ab") as log, on(self.cpus()):
            self.process = subprocess.Popen(
                [*self.wrapper(), self.binaries / "bucketsd", *map(str, arguments)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**clean_environment(), **environment},
            )
        return self

    def wrapper(self):
        """What the command line begins with."""
        return []

    def cpus(self):
        """Where it runs; None: anywhere."""
        return None

    def start(self, timeout=30):
        """Starts the process and waits until it is ready."""
        self.spawn()
        self.wait_ready(timeout)
        return self

    def wait_ready(self, timeout=30):
        deadline = time.monotonic() + timeout
        while True:
            self.check_alive()
            status, text = self.ask("/ready")
            if status == 200:
                return
            if time.monotonic() > deadline:
                raise AssertionError(f"not ready after {timeout} s: {status} {text}\n{self.log_tail()}")
            time.sleep(0.02)

    def check_alive(self):
        status = self.process.poll()
        if status is not None:
            self.process = None
            raise AssertionError(f"bucketsd ended with {status}\n{self.log_tail()}")

    def kill(self):
        """kill -9."""
        self.process.kill()
        self.process.wait()
        self.process = None

    def terminate(self, timeout=30):
        """SIGTERM; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"still running {timeout} s after SIGTERM\n{self.log_tail()}") from None
        self.process = None
        return status

    def end(self):
        """Ends what runs and removes the data."""
        if self.process is not None and self.process.poll() is None:
            self.kill()
        self.process = None
        if not os.environ.get("BUCKETS_E2E_KEEP"):
            shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

    # Looking at it

    @property
    def endpoint(self):
        return f"http://{self.host}:{self.port}"

    def log(self):
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def log_tail(self, lines=40):
        return "\n".join(["--- log"] + self.log().splitlines()[-lines:] + ["---"])

    def ask(self, path, timeout=10):
        """Status and text of an unsigned GET; status 0 where nobody answers."""
        try:
            with urllib.request.urlopen(self.endpoint + path, timeout=timeout) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode(errors="replace")
        except OSError as error:
            return 0, str(error)

    def metrics(self):
        """Every sample of /metrics: {name: {labels as text: value}}."""
        status, text = self.ask("/metrics")
        assert status == 200, (status, text)
        samples = {}
        for line in text.splitlines():
            if line and not line.startswith("#"):
                match = re.fullmatch(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)(?: \d+)?", line)
                assert match, f"not in the exposition format: {line!r}"
                samples.setdefault(match[1], {})[match[2] or ""] = float(match[3])
        return samples

    def metric(self, name):
        """The sum over all labels; 0 where there is none."""
        return sum(self.metrics().get(name, {}).values())

    def control(self, *arguments, check=False):
        """bucketsctl against this node, as root."""
        return run(
            "bucketsctl",
            *arguments,
            *("--endpoint", self.endpoint),
            check=check,
            environment={
                "BUCKETS_ROOT_ACCESS_KEY": self.access_key,
                "BUCKETS_ROOT_SECRET_KEY": self.secret_key,
            },
        )

    def info(self):
        """`bucketsctl info --json`."""
        return json.loads(self.control("info", "--json").stdout)

    def resident_bytes(self):
        """Memory of the process that is really there."""
        for line in pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
        raise AssertionError("no VmRSS")

    # Clients

    def client(self, access_key=None, secret_key=None, retries=0, **config):
        """A boto3 client; without retries, so that tests see the errors."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=access_key or self.access_key,
            aws_secret_access_key=secret_key or self.secret_key,
            config=Config(
                retries={"total_max_attempts": retries + 1},
                connect_timeout=10,
                read_timeout=120,
                max_pool_connections=64,
                **config,
            ),
        )
