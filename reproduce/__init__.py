"""The experiment: arms, stages, profiles, rules, and the command line that ties the parts together."""
