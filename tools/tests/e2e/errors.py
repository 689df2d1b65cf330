"""What a refused request looks like through boto3."""

import contextlib

from botocore.exceptions import ClientError


class Refusal:
    status = None
    code = None
    answer = None


@contextlib.contextmanager
def refused(status, code=None):
    """The block must end in this status, and where a code is given in this code."""
    seen = Refusal()
    try:
        yield seen
    except ClientError as error:
        seen.answer = error.response
        seen.status = error.response["ResponseMetadata"]["HTTPStatusCode"]
        seen.code = error.response["Error"]["Code"]
        assert seen.status == status, error.response
        assert code is None or seen.code == code, error.response
        return
    raise AssertionError(f"was accepted; expected {status} {code}")
