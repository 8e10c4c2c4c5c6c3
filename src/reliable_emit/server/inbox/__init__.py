"""The inbox: an idempotent receiver, which handles each message once however often it is sent."""
