"""What people would use instead: small services, each in one file, tuned as their users would tune them.

    house           starts them: two processes behind the same nginx as Tally's, a Redis or a database of their own
    empty_view      a Django view that does nothing: the limit of reads        naive_django    Django + DRF, `F("value") + delta`
    celery_task     a Celery task for each write                              fastapi_redis   FastAPI + Redis INCRBY
    optimistic      FastAPI, WATCH, GET, MULTI, SET, EXEC, again on conflict   raw_redis       pipelined INCR, no HTTP
    raw_postgres    bodies folded and upserted in SQL, no HTTP: the limit of writes

None of them asks for an API key, knows idempotency or keeps a second copy; the databases are on the primary of Tally's
shard 0.
"""
