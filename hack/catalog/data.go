//go:build data

// Package main keeps the data module in go.mod. The module is read as files,
// never linked: linking it would embed 130 MB in the generator.
package main

import _ "github.com/LeanerCloud/ec2-instances-info"
