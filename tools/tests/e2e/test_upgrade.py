"""A rolling upgrade: nodes of an older build and of this one are one deployment, whichever of them restarts.

    BUCKETS_OLD_BINARIES=<folder with bucketsd and bucketsctl of the older build> python -m pytest tools/tests/e2e/test_upgrade.py
"""

import os
import pathlib
import time

import pytest

from bucketsd import BINARIES
from clients import Clients
from deployment import Deployment

OLD = os.environ.get("BUCKETS_OLD_BINARIES")


@pytest.mark.skipif(not OLD, reason="BUCKETS_OLD_BINARIES names no older build")
@pytest.mark.seconds(400)
def test_a_rolling_upgrade_and_the_way_back_fail_no_request():
    with Deployment() as deployment:
        deployment.format()
        for node in deployment.nodes:
            node.binaries = pathlib.Path(OLD)
        deployment.start()
        # A request that fails once has failed.
        clients = Clients(deployment, tries=1)
        for binaries in (BINARIES, pathlib.Path(OLD), BINARIES):
            for node in deployment.nodes:
                time.sleep(1.5)
                clients.take_away(node)
                time.sleep(0.5)
                assert node.terminate() == 0
                node.binaries = binaries
                node.start(60)
                clients.give_back(node)
        time.sleep(1.5)
        clients.stop()
        clients.check()
        assert not any(clients.failed.values()), clients.failed
