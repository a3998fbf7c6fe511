"""The peer of the loader, run with the Python of its own environment.

``python spark_load.py BOOTSTRAP TOPIC FOLDER JARS`` reads the topic into an
Iceberg table by Structured Streaming with ``availableNow``: once as a scheduled
run does, from the start of the process, and once more in the running session.
It prints the events, CPU-seconds and seconds of both as JSON.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as f

EVENT = (
    "event_id string, user_id string, item_id string, event_type string, "
    "occurred_at timestamp, event_value double, context string"
)
PROMOTED = (
    "session_id string, device string, surface string, page_position int, "
    "request_id string, model_version string, dwell_time_ms bigint"
)
ORIGIN = "ingested_at timestamp, log_partition int, log_offset bigint"


def cpu_s(jvm: int) -> float:
    """What this process and its JVM took until now."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    fields = Path(f"/proc/{jvm}/stat").read_text().rsplit(")", 1)[1].split()
    ticks = sum(map(int, fields[11:15]))  # children that it waited for, too
    return usage.ru_utime + usage.ru_stime + ticks / os.sysconf("SC_CLK_TCK")


def peak_rss_mb(jvm: int) -> float:
    status = Path(f"/proc/{jvm}/status").read_text()
    (peak,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(peak.split()[1]) / 1024


def session(folder: str, jars: str) -> SparkSession:
    conf = {
        "spark.jars": jars,
        "spark.driver.memory": "4g",
        "spark.ui.enabled": "false",
        "spark.sql.shuffle.partitions": "2",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.extensions": (
            "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions"
        ),
        "spark.sql.catalog.h": "org.apache.iceberg.spark.SparkCatalog",
        "spark.sql.catalog.h.type": "hadoop",
        "spark.sql.catalog.h.warehouse": f"{folder}/warehouse",
    }
    builder: Any = SparkSession.builder.master("local[*]")
    for name, value in conf.items():
        builder = builder.config(name, value)
    made: SparkSession = builder.getOrCreate()
    made.sparkContext.setLogLevel("ERROR")
    return made


def stream(spark: SparkSession, bootstrap: str, topic: str) -> DataFrame:
    found = (
        spark.readStream.format("kafka")
        .option("kafka.bootstrap.servers", bootstrap)
        .option("subscribe", topic)
        .option("startingOffsets", "earliest")
        .option("kafka.isolation.level", "read_committed")
        .option("kafka.max.partition.fetch.bytes", 4 << 20)
        .option("kafka.max.poll.records", 20_000)
        .load()
    )
    event = f.from_json(f.col("value").cast("string"), EVENT).alias("event")
    return (
        found.select(event, "partition", "offset", "timestamp")
        .withColumn("promoted", f.from_json("event.context", PROMOTED))
        .select(
            "event.*",
            "promoted.*",
            f.col("timestamp").alias("ingested_at"),
            f.col("partition").alias("log_partition"),
            f.col("offset").alias("log_offset"),
        )
    )


def load(spark: SparkSession, frame: DataFrame, folder: str, name: str) -> int:
    spark.sql(
        f"create table h.raw.{name} ({EVENT}, {PROMOTED}, {ORIGIN}) using iceberg "
        "partitioned by (days(occurred_at)) tblproperties "
        "('write.parquet.compression-codec'='zstd', 'write.distribution-mode'='none')"
    )
    query = (
        frame.writeStream.format("iceberg")
        .outputMode("append")
        .trigger(availableNow=True)
        .option("checkpointLocation", f"{folder}/checkpoint-{name}")
        .option("fanout-enabled", "true")
        .toTable(f"h.raw.{name}")
    )
    query.awaitTermination()
    return sum(progress["numInputRows"] for progress in query.recentProgress)


def main(bootstrap: str, topic: str, folder: str, jars: str) -> None:
    begun = time.perf_counter()
    spark = session(folder, jars)
    machine: Any = spark._jvm
    jvm = int(machine.java.lang.ProcessHandle.current().pid())
    spark.sql("create namespace h.raw")
    frame = stream(spark, bootstrap, topic)
    results = {}
    before = 0.0
    for name in ("scheduled", "warm"):
        events = load(spark, frame, folder, name)
        after, ended = cpu_s(jvm), time.perf_counter()
        results[name] = {
            "events": events,
            "cpu_s": after - before,
            "wall_s": ended - begun,
            "peak_rss_mb": peak_rss_mb(jvm),
        }
        before, begun = after, ended
    rows = spark.table("h.raw.warm").where("event_id is not null").count()
    spark.stop()
    if rows != results["warm"]["events"]:
        raise SystemExit(f"{rows} rows of {results['warm']['events']} events")
    print(json.dumps(results))


if __name__ == "__main__":
    main(*sys.argv[1:])
