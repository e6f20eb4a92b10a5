"""What a member sends takes no more than a few times its bytes, however it is made. Each in a process of its
own: the most memory that a process ever had tells of one message alone."""

import subprocess
import sys

import pytest

MIB = 1 << 20
READING = """
import resource
from swarm.domain.errors import SwarmError
from swarm.domain.members import Tombstone
from swarm.rpc import methods as m
from swarm.trust.statements import read_statement
from swarm.trust.codec import parse_json

def most_memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10

data = {data}
before = most_memory()
try:
    {read}
except SwarmError as error:
    print(most_memory() - before, error)
"""


@pytest.mark.parametrize(
    ("data", "read"),
    [
        (r"b'\x0a\0' * (16 << 20)", "m.ANNOUNCE.read_request(data)"),
        (r"b'\x0a\0' * (16 << 20)", "m.MISSING.read_request(data)"),
        (r"b'\x22\0' * (16 << 20)", "m.PREDICT.read_request(data)"),
        (r"b'\x12\0' * (16 << 20)", "m.EXPERT_PREDICT.read_request(data)"),
        (r"b'\x0a\0' * (16 << 20)", "m.EXPERT_PREDICT.read_reply(data)"),
        (r"b'[' + b'[],' * (5 << 20) + b'[]]'", "read_statement(data, Tombstone)"),
        (r"b'[' + b'{\"\":1},' * (2 << 20) + b'[]]'", "parse_json(data, 'statement')"),
    ],
)
def test_nothing_that_is_refused_took_more_than_it_is_long(data: str, read: str) -> None:
    code = READING.format(data=data, read=read)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    taken, _, said = done.stdout.partition(" ")
    assert "expected at most" in said
    assert int(taken) < 14 * MIB, said
