"""Several nodes of one deployment on loopback ports, each a bucketsd of its own."""

import os
import re
import shutil
import subprocess

import pytest

from bucketsd import Bucketsd, free_port, run, scratch


class Node(Bucketsd):
    """One node of a cluster file."""

    def __init__(self, deployment, number, peer_port, host="127.0.0.1"):
        super().__init__(directory=deployment.directory / f"node{number}", disks="", name="node")
        self.directory.mkdir(parents=True, exist_ok=True)
        self.number = number
        self.deployment = deployment
        self.host = host
        self.name = f"{host}:{peer_port}"
        self.peer_port = peer_port
        self.disks = [self.directory / f"disk{n}" for n in range(1, deployment.disks + 1)]

    def format(self):
        for disk in self.disks:
            disk.mkdir(parents=True, exist_ok=True)
        run("bucketsctl", "format", "--cluster", self.deployment.file, "--node", self.name, check=True)
        return self

    def spawn(self, arguments=None, environment=None):
        if arguments is None:
            arguments = ["--cluster", self.deployment.file, *self.place(), "--cores", "1"]
            arguments += ["--listen", f"{self.host}:{self.port}", "--cache", "64MiB", *self.arguments]
        return super().spawn(arguments, environment if environment is not None else {})

    def place(self):
        return ["--node", self.name]

    def cpus(self):
        """One for its one core: a daemon takes the first that it may use, and all nodes would share it."""
        usable = sorted(os.sched_getaffinity(0))
        return {usable[(self.number - 1) % len(usable)]}

    def wrapper(self):
        return self.deployment.wrapper(self.number)


class Gateway(Node):
    """No node: no disks, but S3."""

    def place(self):
        return ["--gateway"]

    def cpus(self):
        return None


class Deployment:
    """A cluster file and its nodes."""

    def __init__(self, nodes=3, disks=2, ec="4+2", host="127.0.0.1"):
        self.directory = scratch("deployment")
        self.disks = disks
        self.host = host
        self.file = self.directory / "cluster.toml"
        self.nodes = self.make_nodes(nodes)
        endpoints = [f"http://{node.name}{node.directory}/disk{{1...{disks}}}" for node in self.nodes]
        run("bucketsctl", "topology", "new", "--ec", ec, "--out", self.file, *endpoints, check=True)
        text = self.file.read_text().replace("\nec = ", "\nsmall_disks = true\nec = ")
        self.file.write_text(text)
        for node in self.nodes:
            node.access_key = self.root(text, "access_key")
            node.secret_key = self.root(text, "secret_key")

    def make_nodes(self, count):
        return [Node(self, number, free_port(), self.host) for number in range(1, count + 1)]

    def wrapper(self, _number):
        """What a node's command line begins with."""
        return []

    @staticmethod
    def root(text, name):
        return re.search(rf'^{name} = "(.*)"$', text, re.MULTILINE)[1]

    def gateway(self):
        """A gateway, not started."""
        gateway = Gateway(self, f"gateway{free_port()}", 0)
        gateway.access_key, gateway.secret_key = self.nodes[0].access_key, self.nodes[0].secret_key
        return gateway

    def format(self):
        for node in self.nodes:
            node.format()
        return self

    def start(self):
        for node in self.nodes:
            node.spawn()
        for node in self.nodes:
            node.wait_ready(60)
        return self

    def running(self):
        return [node for node in self.nodes if node.process is not None]

    def end(self):
        for node in self.nodes:
            node.end()
        if not os.environ.get("BUCKETS_E2E_KEEP"):
            shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()


class NetworkedDeployment(Deployment):
    """Each node in a network namespace of its own, at 10.213.P.N on one bridge: ways between them can be cut."""

    def make_nodes(self, count):
        if os.geteuid() != 0 or not shutil.which("ip"):
            pytest.skip("network namespaces take root and iproute2")
        self.tag = f"bk{os.getpid() % 100000}"
        self.net = f"10.213.{os.getpid() % 250}"
        self.count = 0
        try:
            self.ip("link", "add", self.tag, "type", "bridge")
            self.ip("addr", "add", f"{self.net}.254/24", "dev", self.tag)
            self.ip("link", "set", self.tag, "up")
            for number in range(1, count + 1):
                space, outer = f"{self.tag}n{number}", f"{self.tag}v{number}"
                self.ip("netns", "add", space)
                self.count = number
                self.ip("link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", space)
                self.ip("link", "set", outer, "master", self.tag, "up")
                self.ip("-n", space, "addr", "add", f"{self.net}.{number}/24", "dev", "eth0")
                self.ip("-n", space, "link", "set", "eth0", "up")
                self.ip("-n", space, "link", "set", "lo", "up")
        except subprocess.CalledProcessError as error:
            self.remove_network()
            pytest.skip(f"no network namespaces here: {error.stderr}")
        return [Node(self, number, 9100, f"{self.net}.{number}") for number in range(1, count + 1)]

    @staticmethod
    def ip(*arguments):
        subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)

    def wrapper(self, number):
        return ["ip", "netns", "exec", f"{self.tag}n{number}"]

    def cut(self, one, other):
        """What `one` sends to `other` is lost; what `other` sends arrives."""
        self.ip("-n", f"{self.tag}n{one.number}", "route", "add", "blackhole", f"{other.host}/32")

    def split(self, some, others):
        for one in some:
            for other in others:
                self.cut(one, other)
                self.cut(other, one)

    def heal(self):
        for node in self.nodes:
            space = f"{self.tag}n{node.number}"
            shown = subprocess.run(["ip", "-n", space, "route"], check=True, capture_output=True, text=True).stdout
            for line in shown.splitlines():
                if line.startswith("blackhole"):
                    self.ip("-n", space, "route", "del", *line.split())

    def remove_network(self):
        for number in range(1, self.count + 1):
            subprocess.run(["ip", "netns", "del", f"{self.tag}n{number}"], capture_output=True)
            subprocess.run(["ip", "link", "del", f"{self.tag}v{number}"], capture_output=True)
        subprocess.run(["ip", "link", "del", self.tag], capture_output=True)

    def end(self):
        super().end()
        self.remove_network()
