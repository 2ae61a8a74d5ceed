"""Other engines that tests need: a Spark session, and SQL of several statements."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="module")
def spark() -> Iterator[Any]:
    sql = pytest.importorskip("pyspark.sql", reason="PySpark is not installed: pip install 'diffad-ray[engines]'")
    if not shutil.which("java"):
        pytest.skip("Spark needs Java: apt-get install default-jre-headless")
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    session = sql.SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false")
    session = session.config("spark.sql.shuffle.partitions", "1").config("spark.sql.session.timeZone", "UTC")
    with session.getOrCreate() as started:
        yield started


def run_statements(spark: Any, sql: str) -> None:
    for statement in sql.split(";\n"):
        if re.sub(r"^--.*$", "", statement, flags=re.MULTILINE).strip():
            spark.sql(statement)
