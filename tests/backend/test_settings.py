"""Each setting: where it comes from, and the sentence that refuses a wrong one."""

from __future__ import annotations

import json
import runpy
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hypothesis
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from backend.cli import cli
from backend.data_dir import load_secrets, remember, remembered
from backend.errors import BadSettings
from backend.settings import ROOT, Settings, load_settings


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


def load(tmp_path: Path, **overrides: object) -> Settings:
    return load_settings(_env_file=None, data_dir=tmp_path, **overrides)


def refusal(tmp_path: Path, **overrides: object) -> str:
    with pytest.raises(BadSettings) as refused:
        load(tmp_path, **overrides)
    return str(refused.value)


def test_the_defaults_follow_from_the_data_folder(tmp_path: Path) -> None:
    settings = load(tmp_path)
    assert settings.port == 9090
    assert settings.backend_url == "http://127.0.0.1:9090"
    assert settings.ledger_path == tmp_path / "ledger.sqlite3"
    assert settings.registry_path == tmp_path / "registry"
    assert (settings.retrain_every, settings.members) == (10, 5)
    assert (settings.candidates, settings.queue_length) == (2000, 500)
    assert 1 <= settings.workers <= 4


@pytest.mark.parametrize("url", ["s3://bucket", "s3://my.bucket-1/a/b_c", "gs://b9/x", "az://b9"])
def test_a_registry_in_an_object_store_has_no_folder(url: str, tmp_path: Path) -> None:
    settings = load(tmp_path, registry_url=f"{url}/", registry_cache_gb=2)
    assert (settings.registry_url, settings.registry_path) == (url, None)
    assert settings.store().url == url
    assert not (tmp_path / "cache").exists()  # nothing is opened or asked yet


def test_a_ledger_on_postgresql_has_no_file_and_shows_no_password(tmp_path: Path) -> None:
    url = "postgresql+psycopg://u:sesame@h/db?sslmode=verify-full"
    settings = load(tmp_path, ledger_url=url)
    assert (settings.ledger_url, settings.ledger_path) == (url, None)
    assert "sesame" not in repr(settings)


def test_a_wrong_number_is_refused_with_the_sentence_of_the_style_guide(tmp_path: Path) -> None:
    assert refusal(tmp_path, retrain_every="0") == (
        "RETRAIN_EVERY must be an integer from 1 to 1000000, got '0'."
    )


A_FILE = str(ROOT / "README.md")

WRONG = {
    "data_dir": [A_FILE, f"{A_FILE}/below", "~nobody-of-that-name/x", "x" * 5000, "/proc/none"],
    "secrets_dir": [A_FILE, "/nowhere/secrets", "x" * 5000, "~nobody-of-that-name/x"],
    "shared_secret": ["too short", "\n" * 40, " " + "x" * 40, "é" * 40],
    "host": ["a b", "http://x", "-x"],
    "port": ["0", "65536", "x", "9090.5"],
    "backend_url": ["localhost:9090", "ftp://x", "http://u:p@x", "http://x/?q", "http://x:99999"],
    "label_studio_url": ["x", "http://", "http://x#y"],
    "local_label_studio_host": ["a b", "http://x"],
    "label_studio_api_key": ["two words", "ключ"],
    "redis_url": ["http://x", "redis://", "unix://", "redis://h:99999", "h:6379", "redis://[::1"],
    "ledger_url": [
        "postgresql://u:p@h/db",
        "sqlite://",
        "sqlite:///:memory:",
        "postgresql+psycopg://u:p@h",
        "postgresql+psycopg://u:p@h:99999/db",
        "ledger.db",
        "sqlite:///~nobody-of-that-name/x",
    ],
    "ledger_connections": ["1", "101", "x"],
    "registry_url": [
        *("s3://", "s3:///prefix", "s3://u:p@bucket", "s3://bucket?x", "s3://bucket/../x"),
        *("ftp://host/x", "file://", "file://host/x", "~nobody-of-that-name/x"),
    ],
    "registry_cache_gb": ["0", "x"],
    "basic_auth_user": ["a:b", " a", "a\n", "é"],
    "basic_auth_pass": ["\n", " x", "é"],
    "dashboard_user": ["a:b", "é"],
    "dashboard_pass": ["\n", " x", "é"],
    "dashboard_viewer_user": ["a:b", "é"],
    "dashboard_viewer_pass": ["\n", " x", "é"],
    "dashboard_proxies": ["proxy.lab", "10.0.0.0/8", "10.0.0.1:80"],
    "allowed_image_hosts": ["http://x", "a b", "x/y", "x:", "x:0", "x:99999"],
    "retrain_every": ["-1", "ten", "1.5"],
    "members": ["0", "21"],
    "candidates": ["0"],
    "queue_length": ["0"],
    "network": ["resnet", "a.b", "a:b:c", "os.path:"],
    "network_weights": ["/nowhere/weights.pt", "/", "x" * 5000, "~nobody-of-that-name/x"],
    "fit_seconds": ["0", "soon", "nan", "90000"],
    "engine": ["tensorrt", "cpu"],
    "metrics_token": ["\n", "two words", "é"],
    "log_format": ["JSON", "xml"],
    "mlflow_tracking_uri": ["mlflow", "databricks", "http://u:p@x", "file://host/x", "file://"],
    "workers": ["0", "65"],
    "job_nice": ["-1", "20", "low"],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in WRONG.items() for value in values]
)
def test_a_wrong_value_is_refused_with_one_sentence_that_names_it(
    name: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.setenv(name.upper(), value)
    with pytest.raises(BadSettings) as refused:
        load_settings(_env_file=None)
    sentence = str(refused.value)
    extra = Settings.model_fields[name].json_schema_extra
    assert isinstance(extra, dict)
    assert sentence.startswith(f"{name.upper()} must be {extra['expected']}, got ")
    assert sentence.endswith(".")
    assert sentence.count("\n") == 0
    assert len(sentence) < 500
    secrets = ("label_studio_api_key", "metrics_token", "shared_secret")
    if name not in secrets and not name.endswith(("_pass", "_user")):
        assert value.partition("u:p@")[0].partition("?")[0].partition("#")[0][:20] in sentence


def test_every_setting_has_wrong_values_tested_here() -> None:
    assert set(WRONG) == set(Settings.model_fields)


@pytest.mark.parametrize("name", sorted(Settings.model_fields))
@given(value=st.text() | st.text(alphabet="~/:@?#%[]\x00. -0123456789abcredislq"))
@hypothesis.settings(
    derandomize=True,
    max_examples=40,
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
def test_any_text_for_any_setting_is_taken_or_refused(
    name: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a folder that is taken as DATA_DIR is made
    try:
        load_settings(_env_file=None, **{"data_dir": tmp_path, name: value})
        said = "Taken."
    except BadSettings as error:
        said = str(error)
    assert said.endswith(".")


def test_each_wrong_value_gets_a_line_of_its_own(tmp_path: Path) -> None:
    sentences = refusal(tmp_path, port="x", members="0").splitlines()
    assert [sentence.split()[0] for sentence in sentences] == ["PORT", "MEMBERS"]


ADDRESSES = (
    "{scheme}://:{secret}@host:99999",
    "{scheme}://user:{secret}@host:99999/0",
    "{scheme}://user:a/{secret}/b@host:99999",
    "{scheme}://user:a@{secret}@host:99999",
    "{scheme}://user:a?{secret}#b@host:99999",
    "{scheme}://user:\n{secret}@host:99999",
    "user:{secret}@host:6379",
    "//user:{secret}@host",
    "{scheme}://host:99999/?password={secret}",
    "{scheme}://host:99999/#{secret}",
)


SCHEMES = (
    ("backend_url", "http"),
    ("label_studio_url", "https"),
    ("redis_url", "redis"),
    ("redis_url", "valkey+tls"),
    ("ledger_url", "postgresql"),
    ("registry_url", "s3"),
    ("allowed_image_hosts", "https"),
    ("host", "http"),
    ("basic_auth_user", "http"),
)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (name, form.format(scheme=scheme, secret="sesame"))
        for name, scheme in SCHEMES
        for form in ADDRESSES
        # Any text that is no address is a folder's path there, and taken.
        if name != "registry_url" or form.startswith("{scheme}")
    ],
)
def test_a_refused_address_keeps_its_password_to_itself(
    name: str, value: str, tmp_path: Path
) -> None:
    sentence = refusal(tmp_path, **{name: value})
    assert sentence.startswith(f"{name.upper()} must be ")
    assert "sesame" not in sentence


def test_a_refusal_holds_no_password(tmp_path: Path) -> None:
    text = refusal(
        tmp_path,
        label_studio_api_key="sesame street",
        basic_auth_user="committee:sesame",
        basic_auth_pass=" sesame",
    )
    assert "sesame" not in text
    assert "got 'committee:***'" in text


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"dashboard_pass": "x" * 20}, "DASHBOARD_PASS must differ from BASIC_AUTH_PASS"),
        (
            {"dashboard_pass": "y" * 20, "dashboard_viewer_pass": "x" * 20},
            "DASHBOARD_VIEWER_PASS must differ from BASIC_AUTH_PASS",
        ),
        (
            {
                "dashboard_pass": "y" * 20,
                "dashboard_viewer_pass": "z" * 20,
                "dashboard_viewer_user": "owner",
            },
            "DASHBOARD_VIEWER_USER must differ from DASHBOARD_USER",
        ),
        ({"host": "0.0.0.0", "dashboard_pass": "short"}, "DASHBOARD_PASS must have at least 12"),
    ],
)
def test_logins_of_the_dashboard_that_keep_nobody_out_are_refused(
    given: dict[str, str], sentence: str, tmp_path: Path
) -> None:
    said = refusal(tmp_path, basic_auth_pass="x" * 20, **given)
    assert said.startswith(sentence)
    assert not set(given.values()) & set(said.split())


def test_the_dashboard_is_on_once_make_run_has_made_its_password(tmp_path: Path) -> None:
    assert load(tmp_path).dashboard_pass is None
    made = load_secrets(tmp_path, dashboard=True)["dashboard_pass"]
    assert load_secrets(tmp_path, dashboard=True)["dashboard_pass"] == made
    found = load(tmp_path).dashboard_pass
    assert found is not None
    assert found.get_secret_value() == made
    given = load(tmp_path, dashboard_pass="chosen-8731").dashboard_pass
    assert given is not None
    assert given.get_secret_value() == "chosen-8731"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "lab.example"])
def test_a_short_password_is_refused_where_others_can_reach_the_web(
    host: str, tmp_path: Path
) -> None:
    sentence = refusal(tmp_path, host=host, basic_auth_pass="sesame")
    assert sentence.startswith("BASIC_AUTH_PASS must have at least 12 characters where HOST ")
    assert host in sentence
    assert "got 6" in sentence
    assert "sesame" not in sentence
    load(tmp_path, host=host, basic_auth_pass="sesame-street")
    load(tmp_path, host=host)  # the one made up is long


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost", "LOCALHOST"])
def test_a_short_password_is_enough_for_this_machine_alone(host: str, tmp_path: Path) -> None:
    assert load(tmp_path, host=host, basic_auth_pass="x").host == host.lower()


@pytest.mark.parametrize(
    ("password", "arguments", "says"),
    [
        ("sesame", "--host 0.0.0.0", "BASIC_AUTH_PASS must have at least 12 characters"),
        ("sesame-street", "--host 0.0.0.0 --debug", "--debug lets a browser run code here"),
        ("sesame", "--nonsense", "not options of this backend: --nonsense"),
    ],
)
def test_the_development_server_refuses_the_same(
    password: str,
    arguments: str,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DATA_DIR", str(tmp_path))
    monkeypatch.setenv("BASIC_AUTH_PASS", password)
    monkeypatch.setattr("backend.web.app.build_app", lambda _settings: None)
    monkeypatch.setattr("backend.ledger.heartbeat.Heartbeat.in_background", lambda _self: None)
    monkeypatch.setattr(sys, "argv", ["_wsgi.py", *arguments.split()])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / "_wsgi.py"), run_name="__main__")
    assert ended.value.code == 2
    assert says in capsys.readouterr().err


def test_an_example_file_in_another_encoding_is_named(tmp_path: Path) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_bytes(b"MEMBERS=3\n# caf\xe9\n")
    with pytest.raises(BadSettings, match="invalid UTF-8 at byte 15"):
        load_settings(_env_file=dotenv, data_dir=tmp_path)


@pytest.mark.parametrize("command", ["serve", "run", "doctor"])
def test_a_command_says_what_is_wrong_and_shows_no_traceback(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"DATA_DIR": str(tmp_path), "HOST": "0.0.0.0", "BASIC_AUTH_PASS": "sesame"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    ended = CliRunner().invoke(cli, [command])
    assert ended.exit_code == 1
    assert isinstance(ended.exception, SystemExit)
    assert ended.stderr.startswith("BASIC_AUTH_PASS must have at least 12 characters")
    assert "Traceback" not in ended.output


def test_settings_print_no_password(tmp_path: Path) -> None:
    settings = load(tmp_path, redis_url="redis://:sesame@h:1/0", basic_auth_pass="sesame")
    assert "sesame" not in repr(settings) + str(settings)


def test_a_data_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert refusal(tmp_path / "file").startswith("DATA_DIR must be a folder")
    assert refusal(tmp_path / "file" / "below").startswith("DATA_DIR must be a folder")


def test_weights_without_a_network_of_ones_own_are_refused(tmp_path: Path) -> None:
    weights = tmp_path / "weights.pt"
    weights.touch()
    sentence = refusal(tmp_path, network_weights=str(weights))
    assert sentence.startswith(
        "NETWORK_WEIGHTS is for a network of your own, and NETWORK is shared"
    )
    own = load(tmp_path, network_weights=str(weights), network="lab.net:make")
    assert own.network_weights == weights


@pytest.mark.parametrize(
    ("given", "missing"),
    [("label_studio_url", "LABEL_STUDIO_API_KEY"), ("label_studio_api_key", "LABEL_STUDIO_URL")],
)
def test_a_label_studio_needs_both_its_address_and_its_key(
    given: str, missing: str, tmp_path: Path
) -> None:
    remember(tmp_path, label_studio_url="http://127.0.0.1:8080")
    sentence = refusal(tmp_path, **{given: "http://studio"})
    assert sentence.startswith(f"{missing} must be set when {given.upper()} is")


def test_the_local_key_never_goes_to_another_server(tmp_path: Path) -> None:
    remember(tmp_path, label_studio_url="http://127.0.0.1:8080")
    own = load(tmp_path)
    assert own.label_studio()[1] == load_secrets(tmp_path)["label_studio_token"]
    other = load(tmp_path, label_studio_url="http://studio/", label_studio_api_key="k")
    assert other.label_studio() == ("http://studio", "k")


def test_what_run_chose_is_read_until_somebody_sets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remember(tmp_path, port=9099, valkey_port=7001)
    settings = load(tmp_path)
    assert settings.port == 9099
    assert settings.backend_url == "http://127.0.0.1:9099"
    password = load_secrets(tmp_path)["valkey_password"]
    assert settings.redis() == f"redis://:{password}@127.0.0.1:7001/0"
    monkeypatch.setenv("PORT", "9100")
    monkeypatch.setenv("REDIS_URL", "redis://elsewhere:6379/0")
    settings = load(tmp_path)
    assert (settings.port, settings.redis()) == (9100, "redis://elsewhere:6379/0")


def test_the_dotenv_file_steers_and_the_environment_steers_over_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text(
        "MEMBERS=3\nCANDIDATES=70\n# a comment\nALLOWED_IMAGE_HOSTS=a.org, B.org:9000\n"
    )
    monkeypatch.setenv("MEMBERS", "4")
    settings = load_settings(_env_file=dotenv, data_dir=tmp_path / "data")
    assert (settings.members, settings.candidates) == (4, 70)
    assert settings.allowed_image_hosts == ("a.org", "b.org:9000")


def test_an_empty_variable_is_an_unset_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        if name != "data_dir":
            monkeypatch.setenv(name.upper(), "")
    assert load(tmp_path).members == 5


def test_the_password_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    first = load(tmp_path).basic_auth_pass.get_secret_value()
    assert len(first) >= 20
    assert load(tmp_path).basic_auth_pass.get_secret_value() == first
    assert (tmp_path / "secrets.json").stat().st_mode & 0o777 == 0o600


def test_a_new_data_folder_is_for_its_owner_alone(tmp_path: Path) -> None:
    load(tmp_path / "new")
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


def test_two_processes_that_start_at_once_make_up_the_same_passwords(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(load_secrets, [tmp_path] * 24))
    assert all(one == found[0] for one in found)
    assert [path.name for path in tmp_path.iterdir()] == ["secrets.json"]


def test_damaged_secrets_are_named_and_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "secrets.json").write_text("{")
    assert "secrets.json" in refusal(tmp_path)
    assert (tmp_path / "secrets.json").read_text() == "{"


def test_secrets_of_an_older_release_keep_what_they_have(tmp_path: Path) -> None:
    (tmp_path / "secrets.json").write_text(json.dumps({"basic_auth_pass": "old-one"}))
    assert load_secrets(tmp_path)["basic_auth_pass"] == "old-one"
    assert (
        load_secrets(tmp_path)["label_studio_token"] == load_secrets(tmp_path)["label_studio_token"]
    )


def test_remembering_nothing_forgets(tmp_path: Path) -> None:
    remember(tmp_path, port=1, valkey_port=2)
    remember(tmp_path, port=None)
    assert remembered(tmp_path) == {"valkey_port": 2}


def test_missing_doors_are_sentences(tmp_path: Path) -> None:
    settings = load(tmp_path)
    with pytest.raises(BadSettings, match="No Redis is known: set REDIS_URL"):
        settings.redis()
    with pytest.raises(BadSettings, match="No Label Studio is known"):
        settings.label_studio()


def test_every_interface_is_reached_over_the_loopback(tmp_path: Path) -> None:
    everywhere = "0.0.0.0"
    assert load(tmp_path, host=everywhere).backend_url == "http://127.0.0.1:9090"
    assert load(tmp_path, host="::1").backend_url == "http://[::1]:9090"


@given(port=st.integers(), members=st.integers())
def test_a_number_is_taken_as_it_is_or_refused(
    port: int, members: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.getbasetemp()
    right = 1 <= port <= 65535 and 1 <= members <= 20
    try:
        settings = load(folder, port=str(port), members=str(members))
    except BadSettings:
        assert not right
    else:
        assert right
        assert (settings.port, settings.members) == (port, members)


def test_secrets_come_from_files_where_nothing_else_gives_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "basic_auth_pass").write_text("of-the-file-8731\n")
    (secrets / "shared_secret").write_text("a" * 40)
    (secrets / "ledger_url").write_text("postgresql+psycopg://u:p@h/db")
    monkeypatch.setenv("SHARED_SECRET", "b" * 40)
    settings = load(tmp_path / "data", secrets_dir=secrets)
    assert settings.basic_auth_pass.get_secret_value() == "of-the-file-8731"
    assert settings.ledger_url == "postgresql+psycopg://u:p@h/db"
    assert settings.shared_secret is not None
    assert settings.shared_secret.get_secret_value() == "b" * 40
    (secrets / "metrics_token").write_bytes(b"\xff")
    with pytest.raises(BadSettings, match="metrics_token must be text in UTF-8"):
        load(tmp_path / "data", secrets_dir=secrets)


def test_hosts_with_one_shared_secret_have_the_same_keys(tmp_path: Path) -> None:
    one, other = (load(tmp_path / name, shared_secret="s" * 40) for name in ("one", "other"))
    assert one.derived_key(b"webhooks") == other.derived_key(b"webhooks") != one.derived_key(b"x")
    alone, stranger = (load(tmp_path / name) for name in ("one", "other"))
    assert len({each.derived_key(b"webhooks") for each in (one, alone, stranger)}) == 3


def test_an_installation_keeps_its_keys_when_its_own_secret_becomes_the_shared_one(
    tmp_path: Path,
) -> None:
    alone = load(tmp_path)
    taken = load(tmp_path / "host", shared_secret=load_secrets(tmp_path)["valkey_password"])
    assert taken.derived_key(b"webhooks") == alone.derived_key(b"webhooks")


def test_the_example_file_names_every_setting() -> None:
    example = (ROOT / ".env.example").read_text().splitlines()
    named = {line.lstrip("# ").split("=")[0] for line in example if "=" in line}
    assert named == {name.upper() for name in Settings.model_fields}
