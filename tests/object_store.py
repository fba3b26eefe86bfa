"""A bucket on this machine, for tests: of Google Cloud Storage's JSON API what its clients ask for.

Those of Orbax's arrays (tensorstore), of files (gcsfs) and of TensorBoard's events
(google-cloud-storage) find it by `ObjectStore.variables`. Conditions on generations are kept, as
tensorstore relies on them.
"""

import base64
import email
import hashlib
import itertools
import json
import re
import threading
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, unquote, urlsplit

import google_crc32c

BUCKET = "bucket"
_TIME = "2026-01-01T00:00:00.000Z"


class ObjectStore:
    """The bucket `bucket`, served while the context is open.

    Attributes:
      objects: name -> (content, generation).
      uploads: number of one in parts -> (name, content so far).
    """

    def __init__(self):
        self.objects: dict[str, tuple[bytes, int]] = {}
        self.uploads: dict[str, tuple[str, bytes]] = {}
        self.numbers, self.lock = itertools.count(1), threading.Lock()
        handler = type("Handler", (_Handler,), {"store": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # clients hang up on what they ask twice
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "ObjectStore":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    @property
    def variables(self) -> dict[str, str]:
        """Of the environment, by which clients come here and ask nobody for credentials."""
        names = ("STORAGE_EMULATOR_HOST", "TENSORSTORE_GCS_HTTP_URL")
        # The latter two are gcsfs's: it asks for no machine's account, nor for the kind of bucket.
        others = {"NO_GCE_CHECK": "true", "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}
        return dict.fromkeys(names, self.url) | others

    def size(self, name: str) -> int:
        """Bytes of an object."""
        return len(self.objects[name][0])

    def names(self, prefix: str = "") -> list[str]:
        """Names of the objects that begin so."""
        return sorted(name for name in self.objects if name.startswith(prefix))


class _Handler(BaseHTTPRequestHandler):
    store: ObjectStore
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and content in one packet, or each answer takes 40 ms

    def log_message(self, *_):
        pass

    def do_GET(self):
        self._answer(*self.store_answer("GET", self.path, self.headers, b""))

    def do_DELETE(self):
        self._answer(*self.store_answer("DELETE", self.path, self.headers, b""))

    def do_POST(self):
        self._answer(*self.store_answer("POST", self.path, self.headers, self._body()))

    def do_PUT(self):
        self._answer(*self.store_answer("PUT", self.path, self.headers, self._body()))

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, status: int, content: bytes | dict | list = b"", headers=()) -> None:
        if not isinstance(content, bytes):
            content = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(content), **dict(headers)}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(content)

    def store_answer(self, method: str, target: str, headers: Message, body: bytes) -> tuple:
        """(status, content, headers) of a request."""
        parts = urlsplit(target)
        query = dict(parse_qsl(parts.query))
        if parts.path.startswith("/batch"):
            return self._batch(headers, body)
        found = re.fullmatch(
            r"/(upload/|download/)?(?:storage/v1/)?b/([^/]+)(?:/(o)(?:/(.+))?)?", parts.path
        )
        if not found or found[2] != BUCKET:
            return 404, {"error": {"code": 404, "message": f"no {parts.path}"}}
        with self.store.lock:
            if found[1] == "upload/":
                return self._upload(query, headers, body)
            if not found[3]:
                return 200, {"kind": "storage#bucket", "id": BUCKET, "name": BUCKET}
            if not found[4]:
                return self._list(query)
            return self._object(method, unquote(found[4]), query, headers)

    def _object(self, method: str, name: str, query: dict, headers: Message) -> tuple:
        content, generation = self.store.objects.get(name, (b"", 0))
        if query.get("ifGenerationMatch", str(generation)) != str(generation):
            return 412, {"error": {"code": 412}}
        if not generation:
            return 404, {"error": {"code": 404, "message": f"no {name}"}}
        if query.get("ifGenerationNotMatch") == str(generation):
            return 304, b""
        if method == "DELETE":
            del self.store.objects[name]
            return 204, b""
        if query.get("alt") != "media":
            return 200, self._facts(name)
        known = {"x-goog-generation": generation, "Content-Type": "application/octet-stream"}
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", headers.get("Range", ""))
        if not wanted:
            return 200, content, known
        if wanted[1]:
            first, last = int(wanted[1]), int(wanted[2] or len(content) - 1)
        else:
            first, last = max(0, len(content) - int(wanted[2])), len(content) - 1
        if first >= len(content):
            return 416, b"", known
        last = min(last, len(content) - 1)
        known["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        return 206, content[first : last + 1], known

    def _list(self, query: dict) -> tuple:
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        items, folders = [], set()
        for name in self.store.names(prefix):
            rest = name[len(prefix) :]
            if delimiter and delimiter in rest:
                folders.add(prefix + rest.split(delimiter)[0] + delimiter)
            elif query.get("startOffset", "") <= name < query.get("endOffset", "\U0010ffff"):
                items.append(self._facts(name))
        return 200, {"kind": "storage#objects", "items": items, "prefixes": sorted(folders)}

    def _upload(self, query: dict, headers: Message, body: bytes) -> tuple:
        if "upload_id" in query:
            return self._go_on(query["upload_id"], headers, body)
        name = query.get("name")
        if query["uploadType"] == "multipart":
            facts, part = _parts(headers, body)
            name, body = name or json.loads(facts)["name"], part
        if query["uploadType"] == "resumable":
            number = str(next(self.store.numbers))
            self.store.uploads[number] = (name or json.loads(body)["name"], b"")
            place = f"{self.store.url}/upload/storage/v1/b/{BUCKET}/o?upload_id={number}"
            return 200, b"", {"Location": place}
        generation = self.store.objects.get(name, (b"", 0))[1]
        if query.get("ifGenerationMatch", str(generation)) != str(generation):
            return 412, {"error": {"code": 412}}
        return self._kept(name, body)

    def _go_on(self, number: str, headers: Message, body: bytes) -> tuple:
        name, before = self.store.uploads[number]
        self.store.uploads[number] = (name, before + body)
        if headers.get("Content-Range", "/").endswith("/*"):
            return 308, b"", {"Range": f"bytes=0-{len(before + body) - 1}"}
        return self._kept(name, before + body)

    def _kept(self, name: str, content: bytes) -> tuple:
        self.store.objects[name] = content, next(self.store.numbers)
        return 200, self._facts(name)

    def _facts(self, name: str) -> dict:
        content, generation = self.store.objects[name]
        return {
            "kind": "storage#object",
            "id": f"{BUCKET}/{name}/{generation}",
            "name": name,
            "bucket": BUCKET,
            "size": str(len(content)),
            "generation": str(generation),
            "metageneration": "1",
            "timeCreated": _TIME,
            "updated": _TIME,
            "md5Hash": base64.b64encode(hashlib.md5(content).digest()).decode(),
            "crc32c": base64.b64encode(google_crc32c.Checksum(content).digest()).decode(),
        }

    def _batch(self, headers: Message, body: bytes) -> tuple:
        """Several requests in one, which gcsfs makes of what it deletes."""
        answers = []
        for part in _parts(headers, body):
            method, target, _ = part.decode().split("\r\n")[0].split(" ")
            status, *_ = self.store_answer(method, target, Message(), b"")
            answers.append(
                "--answers\r\nContent-Type: application/http\r\n\r\n"
                f"HTTP/1.1 {status} done\r\nContent-Length: 0\r\n\r\n\r\n"
            )
        kind = {"Content-Type": "multipart/mixed; boundary=answers"}
        return 200, ("".join(answers) + "--answers--").encode(), kind


def _parts(headers: Message, body: bytes) -> list[bytes]:
    head = f"Content-Type: {headers['Content-Type']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + body)
    boundary = message.get_boundary().encode()
    parts = body.split(b"--" + boundary)[1:-1]
    return [part.split(b"\r\n\r\n", 1)[1].removesuffix(b"\r\n") for part in parts]
