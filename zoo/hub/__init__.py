"""From a checkpoint on disk to a repository of the hub: conversion with a report, packages, cards, publication."""
