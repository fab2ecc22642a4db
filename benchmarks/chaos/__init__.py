"""The bench that tries to lose or double an acknowledged write: `make chaos`.

    subject    the cluster under test: its processes, databases and journal
    isolation  namespaces of the round's own            entries   acknowledged writes, in a file
    wire       one HTTP connection                      expected_counts   what clients remember
    client     a write until it is answered             mix       which writes, in which proportion
    expected_likes   who must like what                 likes_mix, likes_verdict   likes
    probes     time without reads, writes, results      sampler   throughput and backlog over time
    fault      a fault and its deck                     kills, freezes, floods, messages, scaling, damage   the faults
    disks, network, clocks   faults that need root, Linux or a C compiler; clock.c goes into the processes
    trial      faults under load, one after the other   verdict   every key, every write, both copies
    report     tables and chaos.json                    picture   docs/img/chaos.png
    broken     deliberately broken builds               stock     the same kills against stock Celery

The rule is equality. A client without an answer repeats its write with the same Idempotency-Key until it gets one, so at
the end each key counts exactly what was acknowledged. Outside: only its test imports it.
"""
