"""What every WorkQueue does, in memory and in a storage queue."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from azure.storage.queue import QueueClient, QueueServiceClient

from exporter.storage.azure_queue import AzureQueue
from exporter.storage.local_folder import MemoryQueue
from exporter.storage.messages import MAX_DELAY_S, MAX_MESSAGE_BYTES
from exporter.storage.protocols import WorkQueue


@dataclass
class Carrier:
    """WorkQueue, and how to take what can be seen now."""

    steps: WorkQueue
    take: Callable[[], object]


@pytest.fixture(params=["memory", pytest.param("queue", marks=pytest.mark.azurite)])
def carrier(request: pytest.FixtureRequest) -> Carrier:
    if request.param == "memory":
        memory = MemoryQueue(lambda: 1000.0)
        return Carrier(memory, memory.take)
    queue: QueueClient = request.getfixturevalue("queue")
    return Carrier(AzureQueue(queue), lambda: _take(queue))


def _take(queue: QueueClient) -> object:
    message = queue.receive_message()
    if message is None:
        return None
    queue.delete_message(message)
    return json.loads(message.content)


class TestSteps:
    def test_a_message_arrives_once_as_it_was_sent(self, carrier: Carrier) -> None:
        message = {"run": "runs/vips/1", "attempt": 2, "café <&>": ["ü", None, 1.5]}
        carrier.steps.put(message)
        assert carrier.take() == message
        assert carrier.take() is None

    def test_a_later_message_waits(self, carrier: Carrier) -> None:
        carrier.steps.put({"when": "later"}, delay_s=3600)
        carrier.steps.put({"when": "latest"}, delay_s=MAX_DELAY_S)
        carrier.steps.put({"when": "now"}, delay_s=0)
        assert carrier.take() == {"when": "now"}
        assert carrier.take() is None

    def test_the_largest_message_is_taken_and_no_larger(self, carrier: Carrier) -> None:
        room = MAX_MESSAGE_BYTES - len('{"a":""}')
        message = {"a": "ü" * (room // 2)}
        carrier.steps.put(message)
        assert carrier.take() == message
        with pytest.raises(ValueError, match="bytes"):
            carrier.steps.put({"a": "ü" * (room // 2 + 1)})

    @pytest.mark.parametrize("delay_s", [-1, MAX_DELAY_S + 1, float("nan"), float("inf")])
    def test_an_impossible_delay_is_refused(self, carrier: Carrier, delay_s: float) -> None:
        with pytest.raises(ValueError, match="delay"):
            carrier.steps.put({}, delay_s=delay_s)

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_only_what_json_knows_is_sent(self, carrier: Carrier, value: float) -> None:
        with pytest.raises(ValueError):
            carrier.steps.put({"a": value})


@pytest.mark.azurite
class TestQueue:
    def test_messages_are_base64_as_the_host_reads_them(
        self, queue: QueueClient, queue_service: QueueServiceClient
    ) -> None:
        AzureQueue(queue).put({"a": "ü"})
        [message] = queue_service.get_queue_client(queue.queue_name).receive_messages()
        assert base64.b64decode(message.content).decode() == '{"a":"ü"}'

    def test_messages_do_not_expire(self, queue: QueueClient) -> None:
        AzureQueue(queue).put({})
        [message] = queue.receive_messages()
        assert message.expires_on is not None
        assert message.expires_on.year == 9999

    def test_a_delay_is_waited_in_full(self, queue: QueueClient) -> None:
        steps = AzureQueue(queue)
        steps.put({}, delay_s=0.2)
        assert queue.get_queue_properties().approximate_message_count == 1
        assert queue.receive_message() is None

    def test_ping_works_before_and_after_the_first_message(self, queue: QueueClient) -> None:
        steps = AzureQueue(queue)
        steps.ping()
        steps.put({})
        steps.ping()


class TestMemory:
    def test_the_message_that_is_due_longest_comes_first(self) -> None:
        now = 1000.0
        steps = MemoryQueue(lambda: now)
        for name, delay_s in (("c", 20), ("a", 0), ("b", 10), ("d", 20)):
            steps.put({"name": name}, delay_s=delay_s)
        assert (len(steps), steps.next_due()) == (4, 1000.0)
        assert steps.take() == {"name": "a"}
        assert steps.take() is None
        assert steps.next_due() == 1010.0
        assert [steps.take(1020.0) for _ in range(4)] == [
            {"name": "b"},
            {"name": "c"},
            {"name": "d"},
            None,
        ]
        assert (len(steps), steps.next_due()) == (0, None)
