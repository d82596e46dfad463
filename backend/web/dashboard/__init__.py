"""The dashboard: pages for people, rendered on the server, behind logins of their own.

Label Studio's protocol is the other half of the web; nothing of it is reached by these logins, and
nothing of this by the password that Label Studio holds.
"""
