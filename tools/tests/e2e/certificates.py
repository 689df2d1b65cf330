"""A CA and what it signs, by the openssl command."""

import subprocess


def openssl(*arguments):
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True, text=True)


class Authority:
    """A CA with its files in a directory."""

    def __init__(self, directory, name="ca"):
        self.directory = directory
        self.pem = directory / f"{name}.pem"
        self.key = directory / f"{name}.key"
        subject = ["-subj", f"/CN=Buckets {name}", "-addext", "basicConstraints=critical,CA:TRUE"]
        openssl("req", "-x509", *KEY, "-keyout", self.key, "-out", self.pem, "-days", "30", *subject)

    def issue(self, name, names="IP:127.0.0.1", days=30):
        """Certificate and key for a node that others know by `names`."""
        certificate, key = self.directory / f"{name}.pem", self.directory / f"{name}.key"
        subject = ["-subj", f"/CN={name}", "-addext", f"subjectAltName={names}"]
        subject += ["-addext", "basicConstraints=critical,CA:FALSE"]
        signed_by = ["-CA", self.pem, "-CAkey", self.key]
        openssl("req", "-x509", *KEY, "-keyout", key, "-out", certificate, "-days", days, *signed_by, *subject)
        return certificate, key


KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc"]
