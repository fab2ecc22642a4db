"""The second factor of staff: a code of an authenticator app (TOTP, RFC 6238) or a backup code, by django-otp.

`devices`: who has one, whose code is right, who has to show one. `site`: the admin lets nobody in who has to and has not.
The page is `counters.admin.second_factor`, the command `manage.py second_factor`.
"""
