"""Snapshots: a message as Engine.IO frames, taken at `emit`, and the acknowledgement's id put in at each attempt."""

from __future__ import annotations

from typing import Any

from socketio import packet as socketio_packet

from reliable_emit.delivery import Frames


class Codec:
    """Encodes with the packet class of the wrapped client, so that its json module or serializer is respected.

    Args:
        packet_class: ``AsyncClient.packet_class``.
        namespace: The namespace that the frames are for.
    """

    def __init__(self, packet_class: Any, namespace: str) -> None:
        self._packet_class = packet_class
        self._namespace = namespace
        # The default protocol is text: `2["event",...]`, or `51-["event",...]` with attachments, and the id belongs
        # right before the bracket. Putting it there leaves the snapshot's bytes alone. Any other serializer packs the
        # id among the rest, so its frame is opened and packed again.
        self._textual = getattr(packet_class, "encode", None) is socketio_packet.Packet.encode
        self._prefix = "" if namespace == "/" else f"{namespace},"

    def encode(self, event: str, arguments: tuple[Any, ...]) -> Frames:
        """Take the snapshot of a message.

        Raises:
            TypeError: The data cannot be encoded.
            ValueError: Likewise: it contains itself, or a number that the serializer has no room for.
        """
        try:
            encoded = self._packet_class(socketio_packet.EVENT, data=[event, *arguments], namespace=None).encode()
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raised = TypeError if isinstance(error, TypeError) else ValueError
            raise raised(
                f"the data of {event!r} cannot be encoded, nothing was queued: {error}. "
                f"Pass what the client's serializer knows: str, bytes, numbers, bool, None, lists, dicts"
            ) from error
        if isinstance(encoded, list):
            # A bytearray is passed on as it is; it could be changed before the message is sent.
            return tuple(bytes(frame) if isinstance(frame, bytearray) else frame for frame in encoded)
        return encoded  # type: ignore[no-any-return]

    def decode(self, frames: Frames) -> tuple[Any, ...]:
        """Return the arguments in a snapshot, without the event's name."""
        return tuple(self._open(frames).data[1:])

    def with_id(self, frames: Frames, ack_id: int | None) -> list[str | bytes]:
        """Return the frames to send, for this namespace and with the id that asks for an acknowledgement."""
        if not self._textual:
            packet = self._open(frames)
            packet.namespace = self._namespace
            packet.id = ack_id
            encoded = packet.encode()
            return encoded if isinstance(encoded, list) else [encoded]
        head, *attachments = [frames] if isinstance(frames, str | bytes) else frames
        text = str(head)
        bracket = text.index("[")
        number = "" if ack_id is None else str(ack_id)
        return [f"{text[:bracket]}{self._prefix}{number}{text[bracket:]}", *attachments]

    def _open(self, frames: Frames) -> Any:
        head, *attachments = [frames] if isinstance(frames, str | bytes) else frames
        packet = self._packet_class(encoded_packet=head)
        for attachment in attachments:
            packet.add_attachment(attachment)
        return packet
