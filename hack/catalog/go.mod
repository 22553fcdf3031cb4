module github.com/berth-dev/berth/hack/catalog

go 1.26.0

require github.com/LeanerCloud/ec2-instances-info v0.0.0-00010101000000-000000000000

// The data lives under the fork's path on the module proxy, but its go.mod
// still declares the name of the project it was forked from.
replace github.com/LeanerCloud/ec2-instances-info => github.com/cristim/ec2-instances-info v0.0.0-20250528091325-32acf84f42eb
