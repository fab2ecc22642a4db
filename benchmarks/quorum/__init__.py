"""The quorum report: what it costs a client to have its write on k of five replicas before it is answered.

One leader, five followers, each of which applies what it gets after a delay of its own, drawn at random. For each
quorum from 0 to 5 thousands of writes are in flight at once, over few keys and over many; each client waits until its
write is committed. Then every follower's data is compared with the leader's, by digest, and the leader's with what was
acknowledged.

`report.measure` makes the figures, `picture.draw` the picture, `manage.py quorum_report` both.
"""
