"""The bench that tries hard to lose or to double an acknowledged write: `make chaos`.

    subject    the cluster under test: its processes, databases and journal
    wire       one HTTP connection                      expected_counts   what clients remember (pure)
    client     a write until it is answered             mix       which writes, in which proportion
    probes     time without reads, writes, results      sampler   throughput and backlog over time
    fault      a fault and its deck                     kills, freezes, floods, messages, scaling   the faults
    trial      faults under load, one after the other   verdict   every key, every write, both copies
    report     tables and chaos.json                    picture   docs/img/chaos.png
    broken     builds broken on purpose                 stock     the same kills against Celery as it comes

The rule is equality: a client that gets no answer repeats with the same Idempotency-Key until it has one, so in the end
each key counts exactly what was acknowledged. Outside: nothing imports it but its test.
"""
