"""Settings of hardware, and what happens when memory runs out."""

from __future__ import annotations

from engine.field_help.form import Help

HELP: dict[str, Help] = {
    "hardware.device": Help(
        typical="auto",
        memory="on the CPU the limit is host memory",
        training="A CPU trains models up to about 1B, slowly: good for trying out a spec before renting a GPU.",
        source="Loradeck",
    ),
    "hardware.memory_limit": Help(
        typical="unset; 12GiB to rehearse a 12 GB card on a larger one; less than the card to leave others their share",
        memory="on a GPU PyTorch may reserve this less the CUDA context (paged optimizer state is not counted); on the "
        "CPU it is resident memory, libraries (0.5 GiB) included",
        training="None while it suffices. What does not fit fails as out of memory, as on a card of that size.",
        source="torch docs, set_per_process_memory_fraction; getrlimit(2), RLIMIT_DATA",
    ),
    "hardware.num_processes": Help(
        typical="1; as many as the machine has GPUs, with gradient_accumulation_steps divided by it to keep the "
        "effective batch",
        memory="what one process needs, on each GPU: splitting the work does not make a model fit, but with "
        "strategy: fsdp",
        training="The same as one process with the same effective batch, up to rounding; faster by nearly the number "
        "of GPUs while a step computes much longer than it takes to add up gradients.",
        source="accelerate docs, launch; torch docs, DistributedDataParallel",
    ),
    "hardware.num_machines": Help(
        typical="1",
        memory="none: each process needs what it does on one machine",
        training="The same as that many processes on one machine. Over Ethernet adding up gradients takes longer than "
        "in one box: adapters are small, so 10 Gbit/s are enough for most.",
        source="accelerate docs, launch",
    ),
    "hardware.machines": Help(
        typical="[{address: 10.0.0.1, port: 29500}, {address: 10.0.0.2}]",
        memory="none",
        training="None. The machines have to reach each other on all ports: beside the port of machine 0, processes "
        "connect at free ones, of these addresses only. They are not encrypted: use a network of your own.",
        source="accelerate docs, launch (main_process_ip, main_process_port, machine_rank)",
    ),
    "hardware.machine_rank": Help(
        typical="unset; a number where a machine does not have its own address, as in a container",
        memory="none",
        training="None.",
        source="accelerate docs, launch",
    ),
    "hardware.strategy": Help(
        typical="unset; fsdp for a model of 30B and more on cards of 24 GB",
        memory="ddp: the whole model in each process, and its gradients twice. fsdp: a share of weights, adapters "
        "and optimizer state, and whole embeddings and two layers; while loading, host memory for the model once a "
        "process",
        training="None: losses are the same up to rounding, and checkpoints fit any strategy. fsdp sends each layer "
        "three times a pass, so it wants a fast link. It takes 4-bit and unquantized models, bfloat16 and torch's "
        "optimizers, and answers no prompts while it trains.",
        source="torch docs, DistributedDataParallel and FullyShardedDataParallel; PEFT docs, FSDP",
    ),
    "hardware.gpu_ids": Help(
        typical="unset; a list to leave a card to others",
        memory="none",
        training="None.",
        source="accelerate docs, launch",
    ),
    "hardware.launcher": Help(
        typical="local; slurm on a cluster's login node, with hardware.slurm",
        memory="none",
        training="None. Run folder, screens and commands are the same; before it starts, the run is queued.",
        source="man sbatch",
    ),
    "hardware.slurm": Help(
        typical="partition: gpu, gpus: 1, cpus_per_task: 8, mem: 64G, time: '12:00:00'",
        memory="mem is host memory: the libraries take 3 GB and more, loading a model up to the size of its weights",
        training="None. Shortly before the time is over, and when it is preempted, the run saves a checkpoint; the job "
        "then goes back to the queue and training goes on from there.",
        source="man sbatch",
    ),
    "hardware.preflight": Help(
        typical="unset",
        memory="none beyond what the run itself will need: finding that out is what it is for",
        training="None: weights, optimizer and random numbers are put back, and losses are the same bit for bit. It "
        "costs the time of two batches, one evaluation batch and a checkpoint.",
        source="Loradeck",
    ),
    "on_oom": Help(
        typical="ask; retry for a run that goes through the night; stop for scripts that decide themselves",
        memory="none",
        training="retry takes only ways that leave training the same, such as a smaller batch with more accumulation; "
        "each is recorded as a run of its own that continues from the newest checkpoint.",
        source="Loradeck",
    ),
}
