"""Where a handler is registered: for which event of which namespace it is called, and with what in front."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any

import socketio

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Place = tuple[str, ...]
"""The namespace and the event; or one name only, that of a handler that is registered nowhere."""


class Whereabouts:
    """Where one handler is registered.

    Args:
        sio: The server.
        received: The handler, as it is registered.
    """

    def __init__(self, sio: socketio.AsyncServer, received: Callable[..., Any]) -> None:
        self._sio = sio
        self._received = received
        self._found: dict[int, tuple[object, Place]] = {}  # by the id of the object of a method
        self._suspects: list[object] = []  # what is called for any event or any namespace
        self._is_suspect = False

    def catches_all(self, first: object) -> bool:
        """Return whether it is called for any event or any namespace, or may be.

        python-socketio then puts the names of these in front of the socket id; so may a `trigger_event` of the user's.
        They are the client's to choose, such as another's socket id, and nobody must take them for one.

        Args:
            first: The first argument: the object of a method, or the socket id.
        """
        if isinstance(first, socketio.AsyncNamespace):
            return _any_event(first)
        handlers: dict[str, dict[str, Any]] = self._sio.handlers
        suspects = [events["*"] for events in handlers.values() if "*" in events]
        suspects += handlers.get("*", {}).values()
        for methods in filter(_any_event, self._sio.namespace_handlers.values()):
            suspects += (inspect.getattr_static(methods, name) for name in dir(methods))  # its static methods
        if suspects != self._suspects:  # a handler may be registered at any time
            self._suspects, self._is_suspect = suspects, any(self._is_in(one) for one in suspects)
        return self._is_suspect

    def place(self, owner: object) -> Place:
        """Return what tells its messages from those of other handlers, the same in every process and on every node.

        The event is the senders' name for it, and stays over the releases of a program. One that is registered for
        several events counts for the first: it does the same for each. One that is registered nowhere is called by
        another function, and has nothing but its own name.

        Args:
            owner: The object that it is a method of, or ``None``.
        """
        found = self._found.get(id(owner))
        if found is None or found[0] is not owner:
            place = next(self._places(owner), None)
            if place is None:  # not kept: it may be registered yet
                return (f"{self._received.__module__}.{_name(self._received)}",)
            self._found[id(owner)] = found = owner, place
        return found[1]

    def _places(self, owner: object) -> Iterator[Place]:
        for namespace, events in self._sio.handlers.items():
            for event, one in events.items():
                if self._is_in(one) and (owner is None or _owner(one, owner) is owner):
                    yield namespace, event
        for namespace, methods in self._sio.namespace_handlers.items():
            if owner is None or owner is methods:
                for name in dir(methods):
                    if name.startswith("on_") and self._is_in(inspect.getattr_static(methods, name)):
                        yield namespace, name.removeprefix("on_")

    def _is_in(self, one: object) -> bool:
        return any(layer is self._received for layer in _layers(one))


def _any_event(methods: Any) -> bool:
    override = getattr(methods.trigger_event, "__func__", None) is not socketio.AsyncNamespace.trigger_event
    return override or methods.namespace == "*"


def _layers(one: Any) -> Iterator[object]:
    """What is called in the end, and all that is wrapped around it."""
    while one is not None:
        yield one
        if isinstance(one, functools.partial | functools.partialmethod):
            one = one.func
        else:  # a bound method is another object each time, its function is not
            one = getattr(one, "__func__", None) or getattr(one, "__wrapped__", None)


def _owner(one: Any, default: object) -> object:
    return next((layer.__self__ for layer in _layers(one) if inspect.ismethod(layer)), default)


def _name(handler: Callable[..., Any]) -> str:
    return getattr(handler, "__qualname__", None) or type(handler).__qualname__
