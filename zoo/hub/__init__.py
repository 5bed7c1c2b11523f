"""Brings checkpoints from disk to the hub: conversion with a report, packages, cards, publication."""
