"""Fetching from real servers: what comes, what is kept, what goes on, and what is said when it fails."""

import base64
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
import requests
from gcp_storage_emulator.server import create_server
from moto.server import ThreadedMotoServer
from source_servers import (
    Fault,
    HubServer,
    TokenRegistry,
    WebServer,
    registry_server,
    serving,
    until,
    web_server,
)

from isochrone.build_document import (
    SOURCE_DENIED,
    SOURCE_MISMATCH,
    SOURCE_NOT_FOUND,
    SOURCE_REFUSED,
    SOURCE_TOO_LARGE,
    SOURCE_UNREACHABLE,
    FetchFailure,
    FetchReport,
    FetchRequest,
    SourceRequest,
    decode,
    encode,
    result_in,
)
from isochrone_builder.fetching import TRIES_MAX, fetch_sources
from isochrone_builder.request import Progress
from isochrone_builder.source_cache import KEEP_S, SourceCache

DATA = os.urandom(9 << 20)
"""More than one block."""
SHA256 = hashlib.sha256(DATA).hexdigest()
SECRET = "keys"  # noqa: S105 - the name of one
BACK_OFF_S = 0.01


@pytest.fixture
def web() -> Iterator[WebServer]:
    with web_server() as server:
        server.files["/model.pt2"] = DATA
        yield server


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """Return the folder where Secrets are mounted, with an empty one."""
    (tmp_path / "secrets" / SECRET).mkdir(parents=True)
    return tmp_path / "secrets"


def put_keys(secrets: Path, **keys: str) -> None:
    for key, value in keys.items():
        (secrets / SECRET / key).write_text(value)


def fetched(  # noqa: PLR0913 - each is a fact of its own, and named
    uri: str,
    store: Path,
    secrets: Path,
    *,
    sha256: str | None = None,
    secret: str | None = SECRET,
    seen: list[Progress] | None = None,
    cache_bytes: int = 1 << 30,
    file_bytes: int = 1 << 30,
) -> FetchReport:
    request = FetchRequest(
        sources=(SourceRequest(uri=uri, sha256=sha256, secret=secret),),
        cache_bytes_max=cache_bytes,
        file_bytes_max=file_bytes,
    )
    said: list[Progress] = [] if seen is None else seen
    return fetch_sources(request, store, secrets, said.append, back_off_s=BACK_OFF_S)


def failure(report: FetchReport) -> FetchFailure:
    assert report.fetched == ()
    (found,) = report.failures
    return found


def require_data(report: FetchReport, store: Path) -> None:
    assert report.failures == ()
    (found,) = report.fetched
    assert (found.sha256, found.size_bytes) == (SHA256, len(DATA))
    assert SourceCache(store, 0).path(SHA256).read_bytes() == DATA


def require_cached(uri: str, store: Path, secrets: Path) -> None:
    """Assert that ``uri``, which leads to the same file as before, is not transferred again."""
    seen: list[Progress] = []
    require_data(fetched(uri, store, secrets, seen=seen), store)
    assert [it.cached for it in seen] == [True]


@pytest.mark.slow
def test_s3(tmp_path: Path, secrets: Path) -> None:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        endpoint = "http://{}:{}".format(*server.get_host_and_port())
        client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            aws_access_key_id="a",
            aws_secret_access_key="b",  # noqa: S106 - moto takes any
            region_name="us-east-1",
        )
        client.create_bucket(Bucket="models")
        client.put_object(Bucket="models", Key="team/model.pt2", Body=DATA)
        keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
        put_keys(secrets, AWS_ENDPOINT_URL=endpoint, **keys)
        uri = "s3://models/team/model.pt2"
        require_data(fetched(uri, tmp_path, secrets), tmp_path)
        require_cached(uri, tmp_path, secrets)
        absent = failure(fetched("s3://models/team/other.pt2", tmp_path, secrets))
        folder = failure(fetched("s3://models/team", tmp_path, secrets))
        client.put_object(Bucket="models", Key="team/model.pt2", Body=b"new")
        changed = fetched(uri, tmp_path, secrets)
    finally:
        server.stop()
    assert absent.code == folder.code == SOURCE_NOT_FOUND
    assert "names a directory" in folder.reason
    assert changed.fetched[0].sha256 == hashlib.sha256(b"new").hexdigest()


@pytest.mark.slow
def test_s3_refuses_half_a_pair_of_keys_and_says_so(tmp_path: Path, secrets: Path) -> None:
    put_keys(secrets, AWS_ACCESS_KEY_ID="a")
    found = failure(fetched("s3://models/m", tmp_path, secrets))
    assert found.code == SOURCE_REFUSED
    assert "AWS_SECRET_ACCESS_KEY" in found.reason


@pytest.mark.slow
def test_google_storage(tmp_path: Path, secrets: Path) -> None:
    server = create_server("127.0.0.1", 0, in_memory=True, default_bucket="models")
    server.start()
    try:
        endpoint = f"http://127.0.0.1:{server._api._httpd.server_address[1]}"
        put_keys(secrets, GS_ENDPOINT_URL=endpoint)
        requests.post(
            f"{endpoint}/upload/storage/v1/b/models/o?uploadType=media&name=team/model.pt2",
            data=DATA,
            timeout=30,
        ).raise_for_status()
        require_data(fetched("gs://models/team/model.pt2", tmp_path, secrets), tmp_path)
        require_cached("gs://models/team/model.pt2", tmp_path, secrets)
        absent = failure(fetched("gs://models/team/other.pt2", tmp_path, secrets))
    finally:
        server.stop()
    assert absent.code == SOURCE_NOT_FOUND


def test_a_hub(tmp_path: Path, secrets: Path) -> None:
    hub = HubServer("team/model", {"onnx/model.onnx": DATA, "README.md": b"hi"}, token="hf_t")  # noqa: S106
    uri = "hf://team/model/onnx/model.onnx"
    with serving(hub.answer) as url:
        put_keys(secrets, HF_ENDPOINT=url, HF_TOKEN="hf_t")  # noqa: S106
        require_data(fetched(uri, tmp_path, secrets), tmp_path)
        ranges = [it for it in hub.seen if "/resolve/" in it]
        assert len(ranges) == 2, "a block each"
        require_cached(uri, tmp_path, secrets)
        assert [it for it in hub.seen if "/resolve/" in it] == ranges
        absent = failure(fetched("hf://team/model/other.onnx", tmp_path, secrets))
        put_keys(secrets, HF_TOKEN="other")  # noqa: S106
        denied = failure(fetched(uri, tmp_path / "anew", secrets))
    assert absent.code == SOURCE_NOT_FOUND
    assert denied.code == SOURCE_NOT_FOUND, "a hub does not tell strangers what it holds"
    assert "private" in denied.reason


def test_a_registry_of_debian(tmp_path: Path, secrets: Path) -> None:
    files = {"model.pt2": DATA, "notes.txt": b"hi"}
    with registry_server(tmp_path, "team/model:1", files) as host:
        uri = f"oci://{host}/team/model:1#model.pt2"
        require_data(fetched(uri, tmp_path, secrets, secret=None), tmp_path)
        require_cached(uri, tmp_path, secrets)
        several = failure(fetched(f"oci://{host}/team/model:1", tmp_path, secrets))
        absent = failure(fetched(f"oci://{host}/team/other:1", tmp_path, secrets))
    assert several.code == absent.code == SOURCE_NOT_FOUND
    assert "['model.pt2', 'notes.txt']" in several.reason


def docker_config(host: str) -> str:
    pair = base64.b64encode(b"ann:pass").decode()
    return json.dumps({"auths": {host: {"auth": pair}}})


def test_a_registry_behind_a_token_service_goes_on_after_a_cut(
    tmp_path: Path, secrets: Path
) -> None:
    registry = TokenRegistry(("ann", "pass"))
    registry.put("team/model:1", {"model.pt2": DATA})
    with serving(registry.answer) as registry.url:
        host = registry.url.removeprefix("http://")
        uri = f"oci://{host}/team/model:1"
        anybody = failure(fetched(uri, tmp_path, secrets, secret=None))
        put_keys(secrets, **{".dockerconfigjson": docker_config(host)})
        registry.faults = [Fault(cut_after=2 << 20)]
        require_data(fetched(uri, tmp_path, secrets), tmp_path)
    assert anybody.code == SOURCE_DENIED
    assert registry.ranges == ["", f"bytes={2 << 20}-"]


@pytest.mark.parametrize(
    ("keys", "wanted"),
    [
        ({"token": "t0ken\n"}, "Bearer t0ken"),
        ({"username": "ann", "password": "pass"}, "Basic YW5uOnBhc3M="),
    ],
)
def test_a_web_server_gets_the_credentials_of_the_secret_alone(
    web: WebServer, tmp_path: Path, secrets: Path, keys: dict[str, str], wanted: str
) -> None:
    web.authorization = wanted
    uri = f"{web.url}/model.pt2"
    refused = failure(fetched(uri, tmp_path, secrets))
    put_keys(secrets, **keys)
    require_data(fetched(uri, tmp_path, secrets), tmp_path)
    assert refused.code == SOURCE_DENIED
    assert "Secret keys" in refused.reason


def test_credentials_do_not_follow_to_another_host(
    web: WebServer, tmp_path: Path, secrets: Path
) -> None:
    put_keys(secrets, token="t0ken")  # noqa: S106
    with web_server() as first:
        first.redirects["/model.pt2"] = f"{web.url}/model.pt2".replace("127.0.0.1", "localhost")
        require_data(fetched(f"{first.url}/model.pt2", tmp_path, secrets), tmp_path)
        assert first.authorizations == ["Bearer t0ken"]
    assert web.authorizations == [""]


def test_it_goes_on_after_failures_and_cuts(web: WebServer, tmp_path: Path, secrets: Path) -> None:
    web.faults = [Fault(status=503), Fault(cut_after=1 << 20), Fault(status=429)]
    require_data(fetched(f"{web.url}/model.pt2", tmp_path, secrets), tmp_path)
    assert [asked for _, asked in web.seen] == ["", "", f"bytes={1 << 20}-", f"bytes={1 << 20}-"]


def test_what_nothing_identifies_is_begun_anew_unless_a_digest_will_tell(
    web: WebServer, tmp_path: Path, secrets: Path
) -> None:
    web.etags = False
    for sha256, asked in ((None, ""), (SHA256, f"bytes={1 << 20}-")):
        web.seen.clear()
        web.faults = [Fault(cut_after=1 << 20)]
        store = tmp_path / str(sha256)
        require_data(fetched(f"{web.url}/model.pt2", store, secrets, sha256=sha256), store)
        assert web.seen[1][1] == asked


def test_a_server_without_ranges_or_lengths_is_read_from_the_start(
    web: WebServer, tmp_path: Path, secrets: Path
) -> None:
    web.ranges = web.lengths = False
    web.faults = [Fault(status=500)]
    require_data(fetched(f"{web.url}/model.pt2", tmp_path, secrets), tmp_path)
    web.lengths = True
    web.faults = [Fault(cut_after=1 << 20)]
    require_data(fetched(f"{web.url}/model.pt2", tmp_path / "anew", secrets), tmp_path / "anew")


def test_a_file_that_changes_on_its_way_is_not_mixed(
    web: WebServer, tmp_path: Path, secrets: Path
) -> None:
    uri = f"{web.url}/model.pt2"
    web.files["/model.pt2"] = b"old" * (1 << 20)
    web.faults = [Fault(cut_after=1 << 20), *[Fault(status=500)] * TRIES_MAX]
    assert failure(fetched(uri, tmp_path, secrets)).code == SOURCE_UNREACHABLE
    web.files["/model.pt2"] = DATA
    require_data(fetched(uri, tmp_path, secrets), tmp_path)


def test_another_digest_is_refused_and_nothing_of_it_is_kept(
    web: WebServer, tmp_path: Path, secrets: Path
) -> None:
    found = failure(fetched(f"{web.url}/model.pt2", tmp_path, secrets, sha256="0" * 64))
    assert found.code == SOURCE_MISMATCH
    assert SHA256[:16] in found.reason
    kept = [it for it in (tmp_path / "sources").rglob("*") if it.is_file()]
    assert [it.name for it in kept] == ["builder.lock"]


def test_a_pinned_file_that_is_there_asks_nobody(tmp_path: Path, secrets: Path) -> None:
    with web_server() as web:
        web.files["/model.pt2"] = DATA
        uri = f"{web.url}/model.pt2"
        require_data(fetched(uri, tmp_path, secrets, sha256=SHA256), tmp_path)
    require_data(fetched(uri, tmp_path, secrets, sha256=SHA256), tmp_path)


@pytest.mark.parametrize("lengths", [True, False])
def test_a_larger_file_than_is_allowed_is_refused(
    web: WebServer, tmp_path: Path, secrets: Path, *, lengths: bool
) -> None:
    web.lengths = lengths
    found = failure(fetched(f"{web.url}/model.pt2", tmp_path, secrets, file_bytes=1 << 20))
    assert found.code == SOURCE_TOO_LARGE
    assert "1048576 bytes" in found.reason


def test_the_file_used_longest_ago_makes_room_but_none_in_use(
    web: WebServer, tmp_path: Path, secrets: Path
) -> None:
    cache = SourceCache(tmp_path, 0)
    held = {}
    for name in ("old", "older", "new"):
        web.files[f"/{name}"] = name.encode() * 1000
        report = fetched(f"{web.url}/{name}", tmp_path, secrets)
        held[name] = cache.path(report.fetched[0].sha256)
    now = time.time()
    for name, ago_s in (("old", KEEP_S + 60), ("older", KEEP_S + 120)):
        os.utime(held[name], (now - ago_s, now - ago_s))
    bound = sum(it.stat().st_size for it in held.values()) + 2000
    web.files["/next"] = b"next" * 1000
    assert fetched(f"{web.url}/next", tmp_path, secrets, cache_bytes=bound).failures == ()
    assert [held[name].exists() for name in ("old", "older", "new")] == [True, False, True]
    tight = failure(fetched(f"{web.url}/model.pt2", tmp_path, secrets, cache_bytes=bound))
    assert tight.code == SOURCE_TOO_LARGE
    assert held["new"].exists(), "a build may be about to read it"


@pytest.mark.parametrize(
    ("uri", "code", "says"),
    [
        ("ftp://host/m", SOURCE_REFUSED, "s3, gs, hf, https or oci"),
        ("https:", SOURCE_REFUSED, "https://"),
        ("oci://registry", SOURCE_REFUSED, "name a repository"),
        ("http://127.0.0.1:1/m", SOURCE_UNREACHABLE, "a new try goes on"),
    ],
)
def test_what_cannot_be_fetched_says_why(
    uri: str, code: str, says: str, tmp_path: Path, secrets: Path
) -> None:
    found = failure(fetched(uri, tmp_path, secrets))
    assert found.code == code
    assert says in found.reason
    assert uri in found.reason


def test_a_missing_secret_is_named(web: WebServer, tmp_path: Path, secrets: Path) -> None:
    found = failure(fetched(f"{web.url}/model.pt2", tmp_path, secrets, secret="absent"))  # noqa: S106
    assert found.code == SOURCE_DENIED
    assert "Secret absent" in found.reason
    assert web.seen == []


def test_a_killed_fetch_goes_on_where_it_was(web: WebServer, tmp_path: Path, secrets: Path) -> None:
    request = FetchRequest(
        sources=(SourceRequest(uri=f"{web.url}/model.pt2", sha256=None, secret=None),)
    )
    path = tmp_path / "request.json"
    path.write_bytes(encode(request))
    command = [sys.executable, "-m", "isochrone_builder", "fetch", "--request", str(path)]
    command += ["--store", str(tmp_path), "--secrets", str(secrets)]
    # The line is cut once, and the process killed while it waits to try again.
    web.faults = [Fault(cut_after=3 << 20), *[Fault(status=503)] * 2]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: len(web.seen) >= 2)
    first.send_signal(signal.SIGKILL)
    first.wait(30)
    web.faults.clear()
    web.seen.clear()
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    result = result_in(done.stdout)
    assert result is not None
    require_data(decode(result, FetchReport), tmp_path)
    assert web.seen == [("/model.pt2", f"bytes={3 << 20}-")]


def test_fetching_loads_nothing_that_parses(web: WebServer, tmp_path: Path, secrets: Path) -> None:
    report = fetched(f"{web.url}/model.pt2", tmp_path, secrets)
    assert report.failures == ()
    script = (
        "import sys, isochrone_builder.fetching, isochrone_builder.web_remotes;"
        "print([it for it in ('torch', 'onnx', 'onnxruntime', 'openvino', 'safetensors')"
        " if it in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.strip() == "[]"
