"""One file descriptor that stands for many, and that can be told to be quiet."""

import select


class Readiness:
    """An epoll of what a network watches, inside another one: so all of it can be put to sleep at once, while the guest
    takes no frames, and the owner still watches the same descriptor."""

    def __init__(self) -> None:
        self.watched = select.epoll()
        self._outer = select.epoll()
        self._outer.register(self.watched, select.EPOLLIN)
        self._is_paused = False

    def fileno(self) -> int:
        return self._outer.fileno()

    @property
    def is_paused(self) -> bool:
        return self._is_paused

    def pause(self, paused: bool) -> None:
        if paused != self._is_paused:
            self._is_paused = paused
            self._outer.modify(self.watched, 0 if paused else select.EPOLLIN)

    def close(self) -> None:
        self._outer.close()
        self.watched.close()
