"""Our errors as HAProxy gives them by itself: as a file that is a whole answer, or as what its `deny` takes."""

from http import HTTPStatus
from pathlib import Path

from deployments.errors import ApiError
from deployments.http import Response, error_response


def write_answer(path: Path, error: ApiError) -> None:
    """Write a whole answer, for `errorfile`."""
    response = error_response(error)
    head = [f"HTTP/1.1 {response.status} {HTTPStatus(response.status).phrase}".encode()]
    head += [b"%s: %s" % header for header in response.headers]
    head.append(b"content-length: %d" % len(response.body))
    path.write_bytes(b"\r\n".join((*head, b"", response.body)))


def write_denial(path: Path, error: ApiError) -> str:
    """Write the body of an answer; returns what follows `http-request deny`, up to its condition."""
    response = error_response(error)
    path.write_bytes(response.body)
    return f"status {response.status} {_headers(response)} file {path}"


def _headers(response: Response) -> str:
    headers = {name.decode(): value.decode() for name, value in response.headers}
    content_type = headers.pop("content-type")
    return " ".join((f"content-type {content_type}", *(f"hdr {name} {value}" for name, value in headers.items())))
