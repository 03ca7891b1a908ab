"""The log, on a disk that is full."""

import io
import json
import os
from pathlib import Path

from kilonova.core.log import Log, Sink


class Disk(io.StringIO):
    full = False

    def flush(self) -> None:
        if self.full:
            raise OSError(28, "No space left on device")
        super().flush()


def test_a_full_disk_is_told_of_once_for_each_trouble() -> None:
    disk = Disk()
    sink = Sink(disk)
    log = Log("test", sink)

    def told() -> int:
        return [json.loads(line).get("level") for line in disk.getvalue().splitlines()].count("error")

    for trouble in (1, 2):
        disk.full = True
        for _ in range(20):
            sink.access({"path": "/"})
            sink.flush()
        assert told() == trouble
        disk.full = False
        log.info("there is room again")
        sink.flush()
        assert told() == trouble
    assert "No space left on device" in disk.getvalue()


def test_a_file_on_a_full_disk_raises_nothing_and_goes_on_when_there_is_room(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w", buffering=1 << 16) as stream:
        room, full = os.dup(stream.fileno()), os.open("/dev/full", os.O_WRONLY)
        sink = Sink(stream)
        os.dup2(full, stream.fileno())
        for _ in range(2000):
            Log("test", sink).info("x" * 100)
            sink.flush()
        os.dup2(room, stream.fileno())
        os.close(full)
        os.close(room)
        Log("test", sink).info("there is room again")
        sink.flush()
        written = (tmp_path / "log").read_text()
    assert "there is room again" in written
    assert len(written) < 100_000, "lines that were lost are not kept in memory"
