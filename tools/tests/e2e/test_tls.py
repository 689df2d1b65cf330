"""Nodes that encrypt what they say to each other, and who is not let in."""

import shutil
import signal
import time

import pytest

from bodies import KIB, MIB, body
from bucketsd import run
from certificates import Authority
from deployment import Deployment
from wire import Wire

BUCKET = "tls"
EXPIRY = "buckets_tls_certificate_expiry_timestamp_seconds"


class EncryptedDeployment(Deployment):
    """Endpoints with https, and certificates of one CA."""

    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.file.write_text(self.file.read_text().replace("http://", "https://"))
        self.authority = Authority(self.directory)
        for node in self.nodes:
            node.arguments = self.flags(f"node{node.number}")

    def flags(self, name, authority=None, ca=None):
        certificate, key = (authority or self.authority).issue(name)
        return ["--tls-ca", ca or self.authority.pem, "--tls-certificate", certificate, "--tls-key", key]


def stays_out(deployment, node, arguments, cluster=None):
    """Starts the node with other flags of TLS; it finds no other node. Gives its log."""
    arguments = ["--cluster", cluster or deployment.file, "--node", node.name, *arguments]
    before = len(node.log())
    node.spawn([*arguments, "--cores", "1", "--listen", f"{node.host}:{node.port}"])
    time.sleep(2)
    assert node.ask("/ready")[0] == 503
    node.kill()
    return node.log()[before:]


def said_after_sighup(node, what):
    node.process.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + 10
    while what not in node.log():
        assert time.monotonic() < deadline, node.log_tail()
        time.sleep(0.05)
    node.check_alive()


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl makes the certificates")
@pytest.mark.seconds(120)
def test_nodes_with_certificates_of_the_ca_and_no_others_form_a_deployment():
    with EncryptedDeployment() as deployment:
        deployment.format().start()
        first, second, third = deployment.nodes
        first.client().create_bucket(Bucket=BUCKET)
        objects = {"small": body(100, "small"), "large": body(3 * MIB, "large"), "middle": body(70 * KIB, "middle")}
        for (key, data), node in zip(objects.items(), deployment.nodes):
            with Wire(node) as wire:
                assert wire.put(BUCKET, key, data).status == 200
        for node in deployment.nodes:
            with Wire(node) as wire:
                for key, data in objects.items():
                    assert wire.get(BUCKET, key).body == data, (node.name, key)

        # A gateway is nobody's host; its certificate counts all the same.
        gateway = deployment.gateway()
        gateway.arguments = deployment.flags("gateway")
        try:
            gateway.start(60)
            with Wire(gateway) as wire:
                assert wire.get(BUCKET, "large").body == objects["large"]
        finally:
            gateway.end()

        # New files without a restart; what cannot be used changes nothing.
        _, _, _, certificate, _, key = first.arguments
        assert 29 * 86400 < first.metric(EXPIRY) - time.time() < 31 * 86400
        key.write_text("nothing of that kind")
        said_after_sighup(first, "stay as they were read before: tls.key: ")
        deployment.authority.issue("node1", days=5)
        said_after_sighup(first, " days; issue a new one and send SIGHUP")
        assert first.metric(EXPIRY) - time.time() < 6 * 86400
        assert "use the files of [tls] as they are now" in first.log(), first.log_tail()

        # With the deployment's secret, but with a certificate of another CA: in its own eyes all is well.
        third.kill()
        other = Authority(deployment.directory, "other")
        both = deployment.directory / "both.pem"
        both.write_text(deployment.authority.pem.read_text() + other.pem.read_text())
        log = stays_out(deployment, third, deployment.flags("stranger", other, ca=both))
        assert "certificate" in log, log
        # Without TLS.
        plain = deployment.directory / "plain.toml"
        plain.write_text(deployment.file.read_text().replace("https://", "http://"))
        plain.chmod(0o600)
        log = stays_out(deployment, third, [], plain)
        assert "all nodes need the same cluster file" in log, log
        # The others have counted both, and said why.
        refused = {}
        for node in first.info()["nodes"]:
            for kind, count in (node.get("refused") or {}).items():
                refused[kind] = refused.get(kind, 0) + count
        assert refused.get("certificate") and refused.get("tls_mismatch"), refused
        assert "UnknownIssuer" in first.log(), first.log_tail()

        # What is not theirs never came in, and the node itself is welcome again.
        third.start(60)
        with Wire(third) as wire:
            assert wire.get(BUCKET, "large").body == objects["large"]


@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl makes the certificates")
def test_files_that_cannot_work_end_the_start():
    with EncryptedDeployment(nodes=3, disks=2) as deployment:
        deployment.format()
        node = deployment.nodes[0]
        _, ca, _, certificate, _, key = node.arguments

        def refused(arguments, what):
            done = run(
                "bucketsd", "--cluster", deployment.file, "--node", node.name, "--listen", "127.0.0.1:0", *arguments
            )
            assert done.returncode != 0 and what in done.stderr, done
            assert len(done.stderr.strip().splitlines()) == 1, done.stderr

        refused([], "are https; name `ca`, `certificate` and `key`")
        refused(["--tls-ca", ca], "tls.certificate: it is missing")
        nowhere = deployment.directory / "nowhere.pem"

        def named(ca=ca, certificate=certificate, key=key):
            return ["--tls-ca", ca, "--tls-certificate", certificate, "--tls-key", key]

        refused(named(key=nowhere), f"tls.key: {nowhere} cannot be read")
        refused(named(ca=key), f"tls.ca: {key} holds no certificate")
        refused(named(key=deployment.authority.key), "is not the key of the certificate")
        elsewhere = deployment.authority.issue("elsewhere", "DNS:elsewhere")
        refused(named(certificate=elsewhere[0], key=elsewhere[1]), "others connect to `127.0.0.1`")
        other = Authority(deployment.directory, "other").issue("stranger")
        refused(named(certificate=other[0], key=other[1]), "is not signed by the CA")
