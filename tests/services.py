"""Servers of other projects, started for a test and ended with it."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from tests.ports import free_port

S3_PORTS = (
    "master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc",
    "s3.port.grpc", "admin.port", "admin.port.grpc",
)  # fmt: skip


@dataclass(frozen=True)
class S3:
    """A running S3 server and what a client needs of it."""

    port: int
    process: subprocess.Popen

    @property
    def environment(self):
        return {
            "AWS_ACCESS_KEY_ID": "medray",
            "AWS_SECRET_ACCESS_KEY": "medray-secret",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def make_bucket(self, name):
        from pyarrow import fs

        endpoint = self.environment["AWS_ENDPOINT_URL"]
        keys = {"access_key": "medray", "secret_key": "medray-secret", "region": "us-east-1"}
        fs.S3FileSystem(endpoint_override=endpoint, allow_bucket_creation=True, **keys).create_dir(name)
        return f"s3://{name}"


@contextlib.contextmanager
def s3_server(folder: Path):
    """Run SeaweedFS on free ports with its files below ``folder``."""
    port = free_port()
    where = ["-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-s3.port={port}", f"-dir={folder}", "-master.telemetry=false"]
    unused = ["-webdav=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]  # on ports of their own, where two servers would meet
    ports = [f"-{name}={free_port()}" for name in S3_PORTS]
    command = [str(Path(sys.executable).parent / "weed"), "mini", *where, *unused, *ports]
    keys = {"AWS_ACCESS_KEY_ID": "medray", "AWS_SECRET_ACCESS_KEY": "medray-secret"}
    with (folder.parent / f"{folder.name}.log").open("wb") as log:
        process = subprocess.Popen(command, env={**os.environ, **keys}, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_for(f"http://127.0.0.1:{port}/status", process)
        yield S3(port, process)
    finally:
        end(process)
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class Bucket:
    """A place on a running store, and the environment that opens it."""

    uri: str
    environment: dict


@contextlib.contextmanager
def ray_with(environment: dict):
    """A Ray cluster of two CPUs whose workers have these variables, too, such as a store's credentials."""
    import pytest
    import ray

    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        ray.shutdown()
        ray.init(address="local", num_cpus=2, log_to_driver=False, logging_level="ERROR", object_store_memory=300 << 20)
        try:
            yield
        finally:
            ray.shutdown()


@contextlib.contextmanager
def gcs_server(folder: Path):
    """Run an emulator of Google Cloud Storage on a free port, its files below ``folder``, with one bucket."""
    port, emulator = free_port(), Path(sys.executable).parent / "gcp-storage-emulator"
    command = [str(emulator), "start", "-H", "127.0.0.1", "--port", str(port), "--default-bucket", "contract", "-M"]
    with (folder / "gcs.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    try:
        wait_for(f"http://127.0.0.1:{port}/storage/v1/b", process)
        yield Bucket("gs://contract", {"STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}"})
    finally:
        end(process)


AZURITE_ACCOUNT = "devstoreaccount1"
AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The key that Azurite documents for its one account."""


def azurite():
    """Return where Azurite is: ``.ci/run`` installs it below the virtual environment."""
    found = Path(sys.prefix) / "node" / "node_modules" / ".bin" / "azurite-blob"
    return str(found) if found.exists() else shutil.which("azurite-blob")


@contextlib.contextmanager
def azure_server(folder: Path):
    """Run Azurite, an emulator of Azure Blob Storage, on a free port, with one container."""
    from pyarrow import fs

    port = free_port()
    command = [azurite(), "--blobPort", str(port), "--location", str(folder), "--silent", "--skipApiVersionCheck"]
    with (folder / "azurite.log").open("wb") as log:
        process = subprocess.Popen([*command, "--disableTelemetry"], stdout=log, stderr=log, cwd=folder)
    try:
        wait_for(f"http://127.0.0.1:{port}/{AZURITE_ACCOUNT}", process)
        options = {f"{service}_storage_authority": f"127.0.0.1:{port}" for service in ("blob", "dfs")}
        options |= {f"{service}_storage_scheme": "http" for service in ("blob", "dfs")}
        fs.AzureFileSystem(AZURITE_ACCOUNT, account_key=AZURITE_KEY, **options).create_dir("contract")
        names = {"AZURE_STORAGE_ACCOUNT_NAME": AZURITE_ACCOUNT, "AZURE_STORAGE_ACCOUNT_KEY": AZURITE_KEY}
        yield Bucket("abfs://contract", {**names, "AZURE_STORAGE_ENDPOINT": f"http://127.0.0.1:{port}"})
    finally:
        end(process)


ORTHANC_PLUGIN = "/usr/share/orthanc/plugins/libOrthancDicomWeb.so"


@dataclass(frozen=True)
class Orthanc:
    """A running PACS."""

    dimse: int
    http: int

    @property
    def web(self):
        return f"127.0.0.1:{self.http}/dicom-web"

    def store(self, files, *options):
        """Send files by C-STORE as they are."""
        subprocess.run(
            ["storescu", "-xs", *options, "-aec", "ORTHANC", "127.0.0.1", str(self.dimse), *map(str, files)], check=True
        )


@contextlib.contextmanager
def orthanc_server(folder: Path):
    """Run Orthanc with its DICOMweb plugin on free ports; the caller MEDRAY may query and get."""
    dimse, http = free_port(), free_port()
    settings = {
        "StorageDirectory": str(folder / "db"), "IndexDirectory": str(folder / "db"), "TemporaryDirectory": str(folder),
        "Plugins": [ORTHANC_PLUGIN], "HttpPort": http, "RemoteAccessAllowed": True, "AuthenticationEnabled": False,
        "OrthancExplorerEnabled": False, "DicomAet": "ORTHANC", "DicomPort": dimse, "DicomCheckCalledAet": False,
        "DicomAlwaysAllowStore": True, "TranscodeDicomProtocol": False, "UnknownSopClassAccepted": True,
        "DicomModalities": {"medray": {"AET": "MEDRAY", "Host": "127.0.0.1", "Port": 104, "AllowGet": True, "AllowFind": True}},
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }  # fmt: skip
    (folder / "db").mkdir(parents=True)
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(["/usr/sbin/Orthanc", str(folder / "orthanc.json")], stdout=log, stderr=log, cwd=folder)
    try:
        wait_for(f"http://127.0.0.1:{http}/system", process)
        yield Orthanc(dimse, http)
    finally:
        end(process)


def wait_for(url, process, seconds=30):
    """Wait until a server answers, whatever it says."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the server for {url} ended with {process.returncode}")
        with contextlib.suppress(OSError):
            try:
                urllib.request.urlopen(url, timeout=2).close()
            except urllib.error.HTTPError:
                return
            return
        time.sleep(0.1)
    raise TimeoutError(url)


def end(process):
    """Ask a process to end, then make it."""
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextlib.contextmanager
def postgres_server(folder: Path, binaries: Path):
    """Run PostgreSQL on a free port, its files below ``folder``; as another user, for it refuses to run as root."""
    port, data = free_port(), folder / "pg"
    data.mkdir()
    prefix = []
    if os.getuid() == 0:
        for place in (data, *(parent for parent in folder.parents if parent != Path("/") and parent != Path("/tmp"))):
            place.chmod(place.stat().st_mode | 0o011)
        folder.chmod(0o755)
        shutil.chown(data, "postgres", "postgres")
        prefix = ["runuser", "-u", "postgres", "--"]
    subprocess.run([*prefix, binaries / "initdb", "-D", data, "-A", "trust", "-U", "medray"], check=True, capture_output=True)
    options = ["-D", str(data), "-p", str(port), "-h", "127.0.0.1", "-k", str(data)]
    with (folder / "pg.log").open("wb") as log:
        process = subprocess.Popen([*prefix, str(binaries / "postgres"), *options], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 30
        ready = [str(binaries / "pg_isready"), "-h", "127.0.0.1", "-p", str(port)]
        while subprocess.run(ready, capture_output=True, check=False).returncode:
            if time.monotonic() > deadline or process.poll() is not None:
                raise TimeoutError((folder / "pg.log").read_text()[-2000:])
            time.sleep(0.1)
        yield f"postgresql://medray@127.0.0.1:{port}/postgres"
    finally:
        end(process)


def mlflow_program():
    """Return MLflow's server: ``.ci/run`` installs it in an environment of its own."""
    found = Path(sys.prefix) / "mlflow" / "bin" / "mlflow"
    return found if found.exists() else None


@contextlib.contextmanager
def mlflow_server(folder: Path, database: str, bucket: str, environment: dict):
    """Run MLflow's tracking server on a free port, its entries in a database, its artifacts proxied to an S3 bucket."""
    port = free_port()
    store = ["--backend-store-uri", database.replace("postgresql://", "postgresql+psycopg2://")]
    artifacts = ["--serve-artifacts", "--artifacts-destination", bucket]
    command = [
        str(mlflow_program()),
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
        *store,
        *artifacts,
    ]
    own = {**os.environ, **environment, "MLFLOW_S3_ENDPOINT_URL": environment["AWS_ENDPOINT_URL"]}
    own |= {"AWS_DEFAULT_REGION": environment["AWS_REGION"], "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "mlflow.log").open("wb") as log:
        process = subprocess.Popen(command, env=own, cwd=folder, stdout=log, stderr=log)
    try:
        wait_for(f"http://127.0.0.1:{port}/health", process, seconds=90)
        yield f"http://127.0.0.1:{port}"
    finally:
        end(process)
