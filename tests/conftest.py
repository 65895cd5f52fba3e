"""Fixtures shared by the tests."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Folder of real images, videos and bags, named by $DINO_ROS_TEST_DATA; the test is skipped where it is absent."""
    folder = os.environ.get("DINO_ROS_TEST_DATA", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("real test data is absent: set DINO_ROS_TEST_DATA to its folder")
    return Path(folder)
