"""A Google Cloud in memory, below Google's own client: requests come as HTTP, as they would leave the machine.

It keeps one project's instances, service accounts and policy. What is asked to be made is judged by the description of
the API that the client library ships: an unknown field or a value of another type is refused, as the real one does.
"""

import json
import re
from collections.abc import Callable
from importlib.resources import files
from typing import Any, Final

import httplib2

PROJECT: Final = "my-project"
JSON_TYPES: Final = {"string": str, "boolean": bool, "integer": int, "number": (int, float)}


def described(api: str) -> dict[str, Any]:
    """The schemas of an API as its description has them."""
    name = f"documents/{api}.json"
    schemas: dict[str, Any] = json.loads(files("googleapiclient.discovery_cache").joinpath(name).read_text())["schemas"]
    return schemas


def faults(schemas: dict[str, Any], schema: dict[str, Any], value: Any, where: str) -> list[str]:
    """What is wrong with a value by its schema."""
    if "$ref" in schema:
        schema = {"type": "object", **schemas[schema["$ref"]]}
    kind = schema["type"]
    if kind in {"object", "array"} and not isinstance(value, dict if kind == "object" else list):
        return [f"{where}: expected an {kind}"]
    if kind == "array":
        inner = [(schema["items"], one, f"{where}[{n}]") for n, one in enumerate(value)]
        return [fault for one in inner for fault in faults(schemas, *one)]
    if kind == "object":
        known, others = schema.get("properties", {}), schema.get("additionalProperties")
        unknown = [f"{where}.{name}: unknown field" for name in value if name not in known and not others]
        inner = [(known.get(name, others), one, f"{where}.{name}") for name, one in value.items()]
        return unknown + [fault for one in inner if one[0] for fault in faults(schemas, *one)]
    is_number_in_string = schema.get("format") in {"int64", "uint64"} and isinstance(value, int)
    if not isinstance(value, JSON_TYPES[kind]) and not is_number_in_string:
        return [f"{where}: expected a {kind}, got {value!r}"]
    if value not in schema.get("enum", [value]):
        return [f"{where}: expected one of {', '.join(schema['enum'])}, got {value!r}"]
    return []


class GoogleCloud:
    """`request` takes the place of `httplib2.Http.request`; look at `instances`, `accounts`, `policy` and `asked`."""

    def __init__(self) -> None:
        self.instances: dict[str, dict[str, Any]] = {}
        self.accounts: dict[str, dict[str, Any]] = {}
        self.policy: dict[str, Any] = {"bindings": []}
        self.asked: list[str] = []
        """Method and path of every request."""
        self._compute = described("compute.v1")
        zone = rf"/compute/v1/projects/{PROJECT}/zones/(?P<zone>[^/]+)"
        self._routes: list[tuple[str, str, Callable[..., Any]]] = [
            ("GET", rf"/v1/projects/{PROJECT}", self._project),
            ("POST", rf"/v1/projects/{PROJECT}:getIamPolicy", lambda body: self.policy),
            ("POST", rf"/v1/projects/{PROJECT}:setIamPolicy", self._set_policy),
            ("GET", rf"/v1/projects/{PROJECT}/serviceAccounts/(?P<email>[^/]+)", self._account),
            ("POST", rf"/v1/projects/{PROJECT}/serviceAccounts", self._create_account),
            ("GET", rf"{zone}/instances", self._list),
            ("POST", rf"{zone}/instances", self._insert),
            ("GET", rf"{zone}/operations/(?P<name>[^/]+)", lambda body, zone, name: {"name": name, "status": "DONE"}),
        ]

    def request(self, uri: str, method: str = "GET", body: Any = None, **_: Any) -> tuple[httplib2.Response, bytes]:
        """Answer one request."""
        path = re.sub(r"^https://[a-z]+\.googleapis\.com|\?.*$", "", uri)
        self.asked.append(f"{method} {path}")
        for wanted, pattern, answer in self._routes:
            found = re.fullmatch(pattern, path)
            if found and wanted == method:
                status, content = answer(json.loads(body) if body else None, **found.groupdict()), None
                status, content = status if isinstance(status, tuple) else (200, status)
                return _response(status, content)
        return _response(404, {"error": {"code": 404, "message": f"nothing at {method} {path}"}})

    def _project(self, body: None) -> dict[str, Any]:
        return {"projectId": PROJECT, "lifecycleState": "ACTIVE"}

    def _set_policy(self, body: dict[str, Any]) -> dict[str, Any]:
        self.policy = body["policy"]
        return self.policy

    def _account(self, body: None, email: str) -> Any:
        missing = {"error": {"code": 404, "message": f"{email} does not exist"}}
        return self.accounts.get(email, (404, missing))

    def _create_account(self, body: dict[str, Any]) -> dict[str, Any]:
        email = f"{body['accountId']}@{PROJECT}.iam.gserviceaccount.com"
        self.accounts[email] = {"email": email, "projectId": PROJECT}
        return self.accounts[email]

    def _list(self, body: None, zone: str) -> dict[str, Any]:
        return {"items": [instance for instance in self.instances.values() if instance["zone"] == zone]}

    def _insert(self, body: dict[str, Any], zone: str) -> Any:
        found = faults(self._compute, {"$ref": "Instance"}, body, "instance")
        if found:
            return 400, {"error": {"code": 400, "message": "; ".join(found)}}
        self.instances[body["name"]] = {**body, "zone": zone, "status": "RUNNING"}
        return {"name": f"insert-{body['name']}", "status": "RUNNING"}


def _response(status: int, content: Any) -> tuple[httplib2.Response, bytes]:
    return httplib2.Response({"status": str(status), "content-type": "application/json"}), json.dumps(content).encode()
