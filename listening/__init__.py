"""Listening tests: sounds under conditions, rated blind, and what the ratings say."""
