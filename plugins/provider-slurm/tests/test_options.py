"""The options of SlurmProvider: as the reference has them, what they make of a script, and which are refused."""

from __future__ import annotations

import inspect
import subprocess

import pytest
from flowcore_provider_slurm import formats
from flowcore_provider_slurm.provider import SlurmProvider

import flowcore.providers
from flowcore.builtin.launchers import SingleNodeLauncher
from flowcore.builtin.local_channel import LocalChannel
from flowcore.errors import ConfigurationError
from flowcore.plugins.api import JobRequest, ProviderContext

REQUEST = JobRequest("flowcore.htex.block-0", 1, "/run/b.sh", "/run/b.sh.out", "/run/b.sh.err")


def lines(**options) -> list[str]:
    """The directives of a job, without what is the same for all."""
    made = SlurmProvider(**options).directives(REQUEST)
    assert all(line.startswith("#SBATCH --") for line in made)
    return [line.removeprefix("#SBATCH ") for line in made]


def test_options_and_defaults_are_those_of_the_reference_and_clusters():
    made = {p.name: p.default for p in inspect.signature(SlurmProvider).parameters.values()}
    assert " ".join(made) == (
        "partition account qos constraint channel nodes_per_block cores_per_node mem_per_node init_blocks min_blocks "
        "max_blocks parallelism walltime scheduler_options regex_job_id worker_init cmd_timeout exclusive move_files "
        "launcher clusters"
    )
    provider = SlurmProvider()
    assert flowcore.providers.SlurmProvider is SlurmProvider
    assert isinstance(provider.channel, LocalChannel)
    assert isinstance(provider.launcher, SingleNodeLauncher)
    others = [getattr(provider, name) for name in made if name not in ("channel", "launcher")]
    assert others == [
        *(None,) * 4, 1, None, None, 1, 0, 1, 1, "00:10:00", "", r"Submitted batch job (?P<id>\S*)", "", 10, True, True,
        None,
    ]  # fmt: skip
    assert provider.walltime_s == 600


def test_what_sbatch_is_told():
    assert lines() == [
        "--job-name=flowcore.htex.block-0",
        "--output=/run/b.sh.out",
        "--error=/run/b.sh.err",
        "--nodes=1",
        "--ntasks-per-node=1",
        "--time=00:10:00",
        "--exclusive",
        "--no-requeue",
    ]
    assert set(
        lines(
            partition="gpu",
            account="a:b",
            qos="high",
            constraint="[rack1|rack2]&fast",
            nodes_per_block=3,
            cores_per_node=16,
            mem_per_node=1.5,
            walltime="1-02:03:04",
            exclusive=False,
        )
    ) == {
        "--job-name=flowcore.htex.block-0",
        "--output=/run/b.sh.out",
        "--error=/run/b.sh.err",
        "--nodes=3",
        "--ntasks-per-node=1",
        "--cpus-per-task=16",
        "--mem=1536M",
        "--time=1-02:03:04",
        "--partition=gpu",
        "--account=a:b",
        "--qos=high",
        '--constraint="[rack1|rack2]&fast"',
        "--no-requeue",
    }


@pytest.mark.parametrize(
    ("cores", "tasks", "each"), [(16, 4, 4), (16, 3, 5), (4, 4, 1), (2, 3, 1)], ids=lambda value: str(value)
)
def test_the_tasks_of_a_node_share_its_cores(cores, tasks, each):
    made = SlurmProvider(cores_per_node=cores).directives(JobRequest("n", tasks, "s", "o", "e"))
    assert f"#SBATCH --ntasks-per-node={tasks}" in made
    assert f"#SBATCH --cpus-per-task={each}" in made


@pytest.mark.parametrize(("gigabytes", "text"), [(1, "1G"), (250, "250G"), (0.5, "512M"), (2.25, "2304M")])
def test_memory(gigabytes, text):
    assert formats.memory(gigabytes) == text


@pytest.mark.parametrize(
    ("users", "not_said"),
    [
        ("#SBATCH --ntasks-per-node=4 --cpus-per-task=2", {"ntasks-per-node", "cpus-per-task"}),
        ("#SBATCH -n 8", {"ntasks-per-node"}),
        ("#SBATCH -p gpu\n#SBATCH -A me -q high", {"partition", "account", "qos"}),
        ("#SBATCH --mem-per-cpu=1G", {"mem"}),
        ("#SBATCH --requeue", {"no-requeue"}),
        ("#SBATCH --no-requeue", {"no-requeue"}),
        ("#SBATCH --oversubscribe # with others", {"exclusive"}),
        ("#SBATCH --exclusive=user", {"exclusive"}),
        ("#SBATCH --comment='--mem=1 -p x' -J name", {"job-name"}),
        ("# SBATCH --mem=1\n##SBATCH --mem=1\n#SBATCHED --mem=1", set()),
        ("#SBATCH --comment='no end", set()),
        ("", set()),
    ],
)
def test_what_the_user_says_the_provider_does_not(users, not_said):
    options = {"partition": "p", "account": "a", "qos": "q", "mem_per_node": 1, "cores_per_node": 4}
    every = {line.removeprefix("--").partition("=")[0] for line in lines(**options)}
    made = {line.removeprefix("--").partition("=")[0] for line in lines(**options, scheduler_options=users)}
    assert every - made == not_said


@pytest.mark.parametrize(
    ("users", "walltime_s"),
    [
        ("#SBATCH -t 50", 3000),
        ("#SBATCH -pdebug -t50 # minutes", 3000),
        ("#SBATCH --time=90:30", 5430),
        ("#SBATCH --time 1:02:03", 3723),
        ("#SBATCH --time=2-3", 2 * 86400 + 3 * 3600),
        ("#SBATCH --time=2-3:4", 2 * 86400 + 3 * 3600 + 240),
        ("#SBATCH --time=1-00:00:01", 86401),
        ("#SBATCH --time=0", None),
        ("#SBATCH --time=UNLIMITED", None),
        ("#SBATCH --time=1:2:3:4", None),
        ("#SBATCH --time=-1", None),
        ("#SBATCH --time", None),
        ("#SBATCH --time-min=5", 600),
        ("", 600),
    ],
)
def test_the_users_own_time_limit_is_told_to_workers(users, walltime_s):
    assert SlurmProvider(scheduler_options=users).walltime_s == walltime_s
    # The provider says its own only where the user says none.
    assert ("--time=00:10:00" in lines(scheduler_options=users)) == (walltime_s == 600)


def test_the_whole_script(tmp_path):
    provider = SlurmProvider(
        partition="debug",
        cores_per_node=4,
        scheduler_options="#SBATCH --gpus=1",
        worker_init="module load python",
        walltime="00:30:00",
    )
    script = provider.preview(ProviderContext(tmp_path, "htex"), "work --hard", 1, "block-0")
    head, _, body = script.partition("#SBATCH --no-requeue\n")
    assert head.startswith("#!/bin/bash\n#SBATCH --gpus=1\n#SBATCH --job-name=block-0\n")
    assert f"#SBATCH --output={tmp_path}/block-0.sh.out\n" in head
    assert "#SBATCH" not in body
    assert "export FLOWCORE_CORES=4\n" in body
    assert body.index("module load python\n") < body.index("work --hard")
    checked = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == []


def test_commands_for_several_clusters():
    provider = SlurmProvider(clusters="a,b")
    assert provider.submit_command(REQUEST) == "sbatch --clusters=a,b /run/b.sh"
    assert provider.test_command(REQUEST) == "sbatch --clusters=a,b --test-only /run/b.sh"
    assert provider.cancel_command(["1;a", "2"]) == (
        "(code=0; scancel --clusters=a 1 || code=$?; scancel --clusters=a,b 2 || code=$?; exit $code)"
    )
    assert SlurmProvider().submit_command(JobRequest("n", 1, "/a b/s", "o", "e")) == "sbatch '/a b/s'"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"regex_job_id": r"job (\d+)"}, r"regex_job_id='job .*'\): lacks the group that matches the id: \(\?P<id>"),
        ({"regex_job_id": "(?P<id>"}, r"regex_job_id='\(\?P<id>'\): is no regular expression: missing \)"),
        ({"partition": "a\nrm -rf /"}, r"partition='a\\nrm -rf /'\): expected one line of text, or None"),
        ({"account": ""}, r"account=''\): expected one line of text, or None"),
        ({"qos": " "}, r"qos=' '\): expected one line of text"),
        ({"constraint": "a\tb"}, r"constraint='a\\tb'\): expected one line of text"),
        ({"clusters": ""}, r"clusters=''\): expected one line of text"),
        ({"cores_per_node": 0}, r"cores_per_node=0\): must be more than 0, or None"),
        ({"mem_per_node": -1}, r"mem_per_node=-1\): must be more than 0, or None"),
        ({"walltime": "10 min"}, r"walltime='10 min'\): expected HH:MM:SS or D-HH:MM:SS"),
        ({"cmd_timeout": 0}, r"cmd_timeout=0\): must be more than 0 seconds"),
        ({"nodes_per_block": 0}, r"nodes_per_block=0\): must be at least 1"),
        ({"min_blocks": 2}, r"SlurmProvider\(min_blocks=2, init_blocks=1, max_blocks=1\): "),
        ({"parallelism": 2}, r"parallelism=2\): must be from 0 to 1"),
        ({"scheduler_options": "--mem=1G"}, r"'--mem=1G' does not begin with #SBATCH: it would be run as a command"),
        ({"scheduler_options": "#SBATCH --array=1-9"}, "'#SBATCH --array=1-9': a job array is no block"),
        ({"scheduler_options": "#SBATCH -a 1-9"}, "'#SBATCH -a 1-9': a job array is no block"),
        ({"scheduler_options": "#SBATCH --nodes 2"}, "'#SBATCH --nodes 2': give it as the option nodes_per_block"),
        ({"exclusive": "yes"}, r"exclusive='yes'\): expected bool"),
        ({"partitions": "a"}, r"SlurmProvider has no option 'partitions' \(did you mean 'partition'\?\)"),
    ],
)
def test_what_cannot_be_is_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        SlurmProvider(**options)
